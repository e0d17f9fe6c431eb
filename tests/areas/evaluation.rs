//! Golden area `evaluation`.

#[path = "evaluation/coco.rs"]
mod coco;
#[path = "evaluation/entry.rs"]
mod entry;
#[path = "evaluation/run_lengths.rs"]
mod run_lengths;

use std::path::PathBuf;

use serde_json::Value;

use super::support;

#[test]
fn every_file_is_tested() {
    let Some(area) = support::area("evaluation") else { return };
    let tested = [
        "coco_dets_bbox.json",
        "coco_dets_keypoints.json",
        "coco_dets_segm.json",
        "coco_eval_bbox.json",
        "coco_eval_bbox.safetensors",
        "coco_eval_keypoints.json",
        "coco_eval_keypoints.safetensors",
        "coco_eval_segm.json",
        "coco_eval_segm.safetensors",
        "entry.json",
        "entry_bbox.json",
        "entry_keypoints.json",
        "entry_keypoints_meta.json",
        "entry_keypoints_predictions.safetensors",
        "entry_predictions.safetensors",
        "entry_segm.json",
        "proposals.json",
        "proposals.safetensors",
        "rle.json",
        "rle_masks.safetensors",
        "sample_output.txt",
    ];
    let not_yet = [
        ("cityscapes_as_coco.json", "Cityscapes' own evaluation is not there yet"),
        ("cityscapes_eval.json", "Cityscapes' own evaluation is not there yet"),
        ("cityscapes_matches.json", "Cityscapes' own evaluation is not there yet"),
        ("cityscapes_predictions.safetensors", "Cityscapes' own evaluation is not there yet"),
        ("voc_dataset.json", "the VOC data set is not there yet"),
        ("voc_devkit/", "the VOC data set is not there yet"),
        ("voc_eval.json", "VOC's evaluation is not there yet"),
        ("voc_eval.safetensors", "VOC's evaluation is not there yet"),
    ];
    support::all_files_known(&area, &tested, &not_yet);
}

/// A file that a golden file names: relative to the golden folder or to its parent. `None` (said aloud) where the
/// golden folder comes without it.
fn named_file(name: &Value) -> Option<PathBuf> {
    let name = name.as_str().expect("a file's name");
    let root = support::root();
    let found = [root.join(name), root.join("..").join(name)].into_iter().find(|path| path.exists());
    if found.is_none() {
        println!("{name}: not beside {}", root.display());
    }
    found
}
