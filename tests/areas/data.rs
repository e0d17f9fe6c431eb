//! Golden area `data`.

#[path = "data/cityscapes_and_voc.rs"]
mod cityscapes_and_voc;
#[path = "data/datasets.rs"]
mod datasets;
#[path = "data/images.rs"]
mod images;
#[path = "data/random.rs"]
mod random;
#[path = "data/samplers.rs"]
mod samplers;
#[path = "data/transforms.rs"]
mod transforms;

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use crate::support;
use maskrcnn_benchmark::data::transforms::RgbImage;

/// Every file of the area is read by a test.
#[test]
fn every_file_is_known() {
    let Some(area) = support::area("data") else { return };
    let tested = [
        "images/",
        "decoded.json",
        "decoded.safetensors",
        "real_images.json",
        "real_images.safetensors",
        "samplers.json",
        "transforms.json",
        "transforms.safetensors",
        "get_size.json",
        "coco_dataset.json",
        "cityscapes_dataset.json",
        "cityscapes/",
    ];
    support::all_files_known(&area, &tested);
}

/// A file of the golden folder. Only the subset in `tests/golden`, without what names real images, may lack it.
fn golden(area: &str, file: &str) -> Option<PathBuf> {
    let path = support::area(area)?.join(file);
    let subset = support::root() == Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    if subset && !path.exists() {
        println!("{area}: {file} is not in the subset");
        return None;
    }
    Some(path)
}

/// How many bytes of an image differ from a golden `[H, W, 3]` tensor, if any.
fn pixels_differ(image: &RgbImage, want: &Tensor) -> Option<String> {
    let size = [image.height as i64, image.width as i64, 3];
    if want.size() != size {
        return Some(format!("size {size:?}, expected {:?}", want.size()));
    }
    let want = Vec::<u8>::try_from(want.to_kind(Kind::Uint8).flatten(0, -1)).expect("bytes");
    let different = image.data.iter().zip(&want).filter(|(a, b)| a != b).count();
    let worst = image.data.iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max();
    (different > 0).then(|| format!("{different} of {} bytes differ, by up to {worst:?}", want.len()))
}
