//! The transforms with their targets, and the random numbers they draw.

use serde_json::Value;
use tch::Tensor;

use super::{golden, pixels_differ};
use crate::support::{self, ints, json, list, number, numbers, Report, Tensors};
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::data::random::{PythonRandom, TorchGenerator};
use maskrcnn_benchmark::data::transforms::{
    build_transforms, read_image, ColorJitter, Compose, Normalize, RandomFlip, Resize, RgbImage, Transform,
    TransformRegistry, TransformRng,
};
use maskrcnn_benchmark::structures::{BoxList, Flip, Keypoints, Mode, SegmentationMask};

/// Pixels on the scale of 255.
const PIXELS: f64 = 1e-4;
const COORDINATES: f64 = 1e-4;

fn rng(python: u64, torch: u64) -> TransformRng {
    TransformRng { python: PythonRandom::new(python), torch: TorchGenerator::new(torch) }
}

fn rows(value: &Value, columns: i64) -> Tensor {
    let values: Vec<f32> = value.as_array().expect("rows").iter().flat_map(numbers).map(|v| v as f32).collect();
    Tensor::from_slice(&values).view([values.len() as i64 / columns, columns])
}

fn polygons(value: &Value) -> Vec<Vec<Vec<f64>>> {
    let polygons = |instance: &Value| instance.as_array().expect("polygons").iter().map(numbers).collect();
    value.as_array().expect("instances").iter().map(polygons).collect()
}

fn target(golden: &Value, image: &RgbImage, with_keypoints: bool) -> BoxList {
    let size = image.size();
    let mut target = BoxList::new(rows(&golden["boxes_xyxy"], 4), size, Mode::Xyxy).expect("boxes");
    target.add_field("masks", SegmentationMask::from_polygons(polygons(&golden["polygons"]), size));
    if with_keypoints {
        let points = rows(&golden["keypoints"], 51);
        target.add_field("keypoints", Keypoints::person(points, size).expect("keypoints"));
    }
    target
}

fn check_target(report: &mut Report, case: &str, got: &BoxList, want: &Value) {
    report.equal(case, "size", vec![got.size().0, got.size().1], ints(&want["size_wh"]));
    report.close(case, "boxes", got.bbox(), &rows(&want["boxes_xyxy"], 4), COORDINATES, 0.0);
    let instances = got.masks().expect("masks").polygon_instances().expect("polygons");
    let flat = |instances: Vec<Vec<Vec<f64>>>| instances.concat().concat();
    let found = instances.iter().map(|i| i.polygons().iter().map(|p| p.iter().map(|&v| v.into()).collect()).collect());
    let (found, wanted) = (flat(found.collect()), flat(polygons(&want["polygons"])));
    report.close_numbers(case, "polygons", &found, &wanted, COORDINATES, 0.0);
    if let Some(instances) = want["keypoints"].as_array() {
        let points: Vec<f64> = instances.iter().flat_map(|i| i.as_array().expect("points")).flat_map(numbers).collect();
        let got = got.keypoints().expect("keypoints").keypoints().flatten(0, -1);
        report.close(case, "keypoints", &got, &Tensor::from_slice(&points), COORDINATES, 0.0);
    }
}

#[test]
fn test_and_train_transforms() {
    let Some(area) = support::area("data") else { return };
    let (golden, tensors) = (json(&area.join("transforms.json")), Tensors::read(&area.join("transforms.safetensors")));
    let mut report = Report::new("data/transforms");
    for kind in ["test_transform", "train_transform"] {
        for case in list(&golden, kind) {
            let image =
                read_image(&area.join("images").join(case["image"].as_str().expect("image"))).expect("an image");
            let mut cfg = Config::default();
            if kind == "test_transform" {
                cfg.input.min_size_test = case["min_size"].as_i64().expect("min_size");
                cfg.input.max_size_test = case["max_size"].as_i64().expect("max_size");
                cfg.input.to_bgr255 = case["to_bgr255"].as_bool().expect("to_bgr255");
                cfg.input.pixel_mean = numbers(&case["mean"]);
                cfg.input.pixel_std = numbers(&case["std"]);
            } else {
                cfg.input.min_size_train.0 = ints(&case["min_sizes"]);
                cfg.input.max_size_train = case["max_size"].as_i64().expect("max_size");
                cfg.input.horizontal_flip_prob_train = number(&case["hflip_prob"]);
                cfg.input.vertical_flip_prob_train = number(&case["vflip_prob"]);
            }
            let is_train = kind == "train_transform";
            let transforms = build_transforms(&cfg, is_train, &TransformRegistry::default()).expect("transforms");
            let seed = case["python_random_seed"].as_u64().unwrap_or(0);
            let target = target(&case["target_in"], &image, !case["target_out"]["keypoints"].is_null());
            let (image, target) = transforms.apply(image, Some(target), &mut rng(seed, 0)).expect("transformed");
            let pixels = Normalize::from_config(&cfg).expect("a normalisation").to_tensor(&image);
            let limit = if cfg.input.to_bgr255 { PIXELS } else { PIXELS / 255.0 };
            report.close(kind, "pixels", &pixels, tensors.get(case["tensor"].as_str().expect("tensor")), limit, 0.0);
            check_target(&mut report, kind, &target.expect("a target"), &case["target_out"]);
        }
    }
    report.finish();
}

#[test]
fn vertical_flips_of_keypoints_fail() {
    let Some(area) = support::area("data") else { return };
    let golden = json(&area.join("transforms.json"));
    assert!(golden["vertical_flip_with_keypoints"]["exception"].is_string());
    let case = &golden["test_transform"][0];
    let image = read_image(&area.join("images").join(case["image"].as_str().expect("image"))).expect("an image");
    let target = target(&case["target_in"], &image, true);
    assert!(RandomFlip::new(Flip::TopBottom, 1.0).apply(image, Some(target), &mut rng(0, 0)).is_err());
}

#[test]
fn draws_of_the_train_transform() {
    let Some(area) = support::area("data") else { return };
    let mut report = Report::new("data/draws");
    for case in list(&json(&area.join("transforms.json")), "train_transform") {
        let mut random = PythonRandom::new(case["python_random_seed"].as_u64().expect("seed"));
        let drawn = &case["drawn"];
        report.equal("train", "min size", Some(*random.choice(&ints(&case["min_sizes"]))), drawn["min_size"].as_i64());
        report.equal("train", "flip", random.random(), number(&drawn["uniform_for_hflip"]));
        report.equal("train", "flip", random.random(), number(&drawn["uniform_for_vflip"]));
    }
    report.finish();
}

#[test]
fn colour_jitter() {
    let Some(area) = support::area("data") else { return };
    let (golden, tensors) = (json(&area.join("transforms.json")), Tensors::read(&area.join("transforms.safetensors")));
    let mut report = Report::new("data/jitter");
    for case in list(&golden, "jitter") {
        let [brightness, contrast, saturation, hue] =
            ["brightness", "contrast", "saturation", "hue"].map(|name| number(&case[name]));
        let jitter = ColorJitter::new(brightness, contrast, saturation, hue).expect("a jitter");
        let seed = case["torch_seed"].as_u64().expect("seed");
        let (order, factors) = jitter.draw(&mut rng(0, seed));
        report.equal("jitter", "order", order.into_iter().map(|i| i as i64).collect(), ints(&case["order"]));
        let wanted: Vec<Option<f64>> = list(case, "factors").iter().map(Value::as_f64).collect();
        report.equal("jitter", "factors", factors.to_vec(), wanted);
        let image = read_image(&area.join("images").join(case["image"].as_str().expect("image"))).expect("an image");
        let (image, _) = jitter.apply(image, None, &mut rng(0, seed)).expect("jittered");
        let want = tensors.get(case["tensor"].as_str().expect("tensor"));
        report.check("jitter", "bytes", pixels_differ(&image, want));
    }
    report.finish();
}

#[test]
fn sizes() {
    let Some(area) = support::area("data") else { return };
    let mut report = Report::new("data/get_size");
    for case in list(&json(&area.join("get_size.json")), "cases") {
        let size = |name: &str| case[name].as_i64().unwrap_or_else(|| panic!("no {name} in {case}"));
        let resize = Resize::new(vec![size("min_size")], case["max_size"].as_i64()).expect("a resize");
        let got = resize.get_size((size("w"), size("h")), size("min_size"));
        report.equal("get_size", "out_hw", vec![got.0, got.1], ints(&case["out_hw"]));
    }
    report.finish();
}

#[test]
fn transformed_coco_images() {
    let Some(path) = golden("data", "real_images.json") else { return };
    let coco = support::root().join("../coco_mini");
    if !coco.is_dir() {
        println!("data/real_images: {} is not there", coco.display());
        return;
    }
    let golden = json(&path);
    let tensors = Tensors::read(&path.with_extension("safetensors"));
    let mut report = Report::new("data/real_images");
    let transformed = |case: &Value, min_size: i64, max_size: i64| {
        let image = read_image(&coco.join(case["file"].as_str().expect("file"))).expect("an image");
        let resize = Resize::new(vec![min_size], Some(max_size)).expect("a resize");
        let no_flip = RandomFlip::new(Flip::LeftRight, 0.0);
        let transforms = Compose(vec![Box::new(resize), Box::new(no_flip)]);
        let (image, _) = transforms.apply(image, None, &mut rng(0, 0)).expect("transformed");
        Normalize::from_config(&Config::default()).expect("a normalisation").to_tensor(&image)
    };
    for case in list(&golden, "small") {
        let size = |name: &str| case[name].as_i64().unwrap_or_else(|| panic!("no {name} in {case}"));
        let got = transformed(case, size("min_size"), size("max_size"));
        report.close("small", "pixels", &got, tensors.get(case["tensor"].as_str().expect("tensor")), PIXELS, 0.0);
    }
    for case in list(&golden, "test_transform_800_1333") {
        let got = transformed(case, 800, 1333);
        report.equal("800_1333", "size", got.size()[1..].to_vec(), ints(&case["out_hw"]));
        let name = case["tensors"].as_str().expect("tensors");
        let part = |part: &str| tensors.get(&format!("{name}/{part}"));
        let at = part("positions_yx");
        let index = at.select(1, 0) * got.size()[2] + at.select(1, 1);
        report.close("800_1333", "pixels", &got.flatten(1, 2).index_select(1, &index), part("values"), PIXELS, 0.0);
        let channels = got.to_kind(tch::Kind::Double).flatten(1, 2);
        let mean = channels.mean_dim(1i64, false, tch::Kind::Double);
        report.close("800_1333", "mean", &mean, part("mean"), 1e-4, 0.0);
        let std = channels.std_dim(1i64, false, false);
        report.close("800_1333", "std", &std, part("std"), 1e-3, 0.0);
    }
    report.finish();
}
