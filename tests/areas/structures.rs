//! Golden area `structures`.

#[path = "structures/boxlist.rs"]
mod boxlist;
#[path = "structures/images_and_keypoints.rs"]
mod images_and_keypoints;
#[path = "structures/masks.rs"]
mod masks;
#[path = "structures/paste.rs"]
mod paste;

use super::support;

#[test]
fn every_file_is_tested() {
    let Some(area) = support::area("structures") else { return };
    let tested = [
        "boxlist.json",
        "boxlist_large.safetensors",
        "image_list.json",
        "image_list.safetensors",
        "keypoints.json",
        "keypoints.safetensors",
        "segmentation_binary.json",
        "segmentation_binary.safetensors",
        "segmentation_polygon.json",
        "segmentation_polygon.safetensors",
        "segmentation_polygon_fork.json",
        "segmentation_polygon_fork.safetensors",
    ];
    support::all_files_known(&area, &tested);
}

/// A `[width, height]` pair.
fn pair(value: &serde_json::Value) -> (i64, i64) {
    let both = support::ints(value);
    (both[0], both[1])
}

/// The original's numbers for `FLIP_LEFT_RIGHT` and `FLIP_TOP_BOTTOM`.
fn flip(method: i64) -> maskrcnn_benchmark::structures::Flip {
    use maskrcnn_benchmark::structures::Flip;
    match method {
        0 => Flip::LeftRight,
        1 => Flip::TopBottom,
        other => panic!("no flip has number {other}"),
    }
}
