//! Decoding, resizing and colours of single images.

use sha2::{Digest, Sha256};

use super::{golden, pixels_differ};
use crate::support::{self, json, number, Report, Tensors};
use maskrcnn_benchmark::data::transforms::{self, read_image};
use maskrcnn_benchmark::structures::Flip;

#[test]
fn decoded_bytes() {
    let Some(area) = support::area("data") else { return };
    let mut report = Report::new("data/decoded");
    let (about, tensors) = (json(&area.join("decoded.json")), Tensors::read(&area.join("decoded.safetensors")));
    for name in about["files"].as_object().expect("files").keys() {
        let wrong = match read_image(&area.join("images").join(name)) {
            Ok(image) => pixels_differ(&image, tensors.get(name)),
            Err(error) => Some(format!("{error:#}")),
        };
        report.check("images", "bytes", wrong);
    }
    report.finish();
}

#[test]
fn decoded_coco_images() {
    let Some(path) = golden("data", "real_images.json") else { return };
    let coco = support::root().join("../coco_mini");
    if !coco.is_dir() {
        println!("data/real_images: {} is not there", coco.display());
        return;
    }
    let mut report = Report::new("data/real_images");
    for case in json(&path)["decode"].as_array().expect("decode") {
        let name = case["file"].as_str().expect("file");
        let digest = match read_image(&coco.join(name)) {
            Ok(image) => Sha256::digest(&image.data).iter().map(|byte| format!("{byte:02x}")).collect(),
            Err(error) => format!("{error:#}"),
        };
        let want = case["sha256_of_rgb_bytes"].as_str().expect("digest").to_owned();
        report.equal(name.split('/').next().unwrap_or(name), "sha256", digest, want);
    }
    report.finish();
}

#[test]
fn resized_bytes() {
    let Some(area) = support::area("data") else { return };
    let mut report = Report::new("data/resize");
    let (about, tensors) = (json(&area.join("transforms.json")), Tensors::read(&area.join("transforms.safetensors")));
    for case in about["resize"].as_array().expect("resize") {
        let name = case["image"].as_str().expect("image");
        let image = read_image(&area.join("images").join(name)).expect("a golden image");
        let size = support::ints(&case["out_hw"]);
        let resized = transforms::resize(&image, (size[1] as usize, size[0] as usize));
        let want = tensors.get(case["tensor"].as_str().expect("tensor"));
        report.check(name, "bytes", pixels_differ(&resized, want));
    }
    report.finish();
}

#[test]
fn flipped_bytes() {
    let Some(area) = support::area("data") else { return };
    let mut report = Report::new("data/flips");
    let (about, tensors) = (json(&area.join("transforms.json")), Tensors::read(&area.join("transforms.safetensors")));
    for case in about["flips"].as_array().expect("flips") {
        let name = case["image"].as_str().expect("image");
        let image = read_image(&area.join("images").join(name)).expect("a golden image");
        let flipped = image.clone().transpose(Flip::LeftRight);
        report.check(name, "horizontal", pixels_differ(&flipped, tensors.get(&format!("flip/{name}/h"))));
        report.check(
            name,
            "vertical",
            pixels_differ(&image.transpose(Flip::TopBottom), tensors.get(&format!("flip/{name}/v"))),
        );
    }
    report.finish();
}

#[test]
fn colour_operations() {
    let Some(area) = support::area("data") else { return };
    let mut report = Report::new("data/color");
    let (about, tensors) = (json(&area.join("transforms.json")), Tensors::read(&area.join("transforms.safetensors")));
    for case in about["color"].as_array().expect("color") {
        let name = case["image"].as_str().expect("image");
        let image = read_image(&area.join("images").join(name)).expect("a golden image");
        let operation = case["op"].as_str().expect("op");
        let factor = number(&case["factor"]);
        let image = match operation {
            "brightness" => transforms::adjust_brightness(image, factor),
            "contrast" => transforms::adjust_contrast(image, factor),
            "saturation" => transforms::adjust_saturation(image, factor),
            "hue" => transforms::adjust_hue(image, factor),
            other => panic!("unknown colour operation {other}"),
        };
        let want = tensors.get(case["tensor"].as_str().expect("tensor"));
        report.check(operation, &format!("{factor}"), pixels_differ(&image, want));
    }
    report.finish();
}

/// Pillow 9.5 refuses every golden JPEG that is cut anywhere, even by the two bytes of its end marker, and keeps a PNG
/// as soon as its rows are complete.
#[test]
fn cut_files() {
    let Some(area) = support::area("data") else { return };
    let mut report = Report::new("data/cut files");
    for name in json(&area.join("decoded.json"))["files"].as_object().expect("files").keys() {
        let whole = std::fs::read(area.join("images").join(name)).expect("a golden image");
        let kind = name.rsplit('.').next().expect("an ending");
        let mut cuts: Vec<usize> = (0..10).map(|tenth| whole.len() * tenth / 10).collect();
        if kind == "jpg" {
            cuts.extend(whole.len() - 4..whole.len());
        }
        for cut in cuts {
            let accepted = transforms::decode_image(&whole[..cut]).is_ok();
            report.check(kind, "refused", accepted.then(|| format!("{name} cut to {cut} of {} bytes", whole.len())));
        }
    }
    report.finish();
}
