//! Cityscapes: matches, tables and files; and the data set in COCO's form.

use std::path::Path;

use maskrcnn_benchmark::data::datasets::{CityScapesDataset, CityScapesMode, Dataset};
use maskrcnn_benchmark::data::evaluation::coco::CocoGroundTruth;
use maskrcnn_benchmark::data::evaluation::{EvaluationOptions, IouType};
use maskrcnn_benchmark::structures::{BoxList, Mode};
use serde_json::Value;
use tch::Kind;

use super::{has, listen};
use crate::support::{area, ints, json, number, root, Report, Tensors};

/// The data set of the golden evaluation; `None` (said aloud) where the golden folder comes without it.
fn dataset(mode: CityScapesMode) -> Option<CityScapesDataset> {
    let folder = root().join("data/cityscapes");
    if !folder.is_dir() {
        println!("{} is missing", folder.display());
        return None;
    }
    let (images, annotations) = (folder.join("leftImg8bit"), folder.join("gtFine"));
    Some(CityScapesDataset::new(&images, &annotations, "val", mode, 0, None).expect("a data set"))
}

fn predictions(golden: &Value, tensors: &Tensors) -> Vec<BoxList> {
    let list = |(i, image): (usize, &Value)| {
        let size = ints(&image["network_size_wh"]);
        let get = |field: &str| tensors.get(&format!("image{i}/{field}")).shallow_clone();
        let mut list = BoxList::new(get("boxes"), (size[0], size[1]), Mode::Xyxy).expect("a box list");
        list.add_field("labels", get("labels"));
        list.add_field("scores", get("scores"));
        list.add_field("mask", get("masks_u8").to_kind(Kind::Float).unsqueeze(1) / 255.0);
        list
    };
    golden["images"].as_array().expect("images").iter().enumerate().map(list).collect()
}

/// The same tree, numbers within 1e-9 (pixel counts exact). nan is text in golden files.
fn compare(report: &mut Report, case: &str, at: &str, got: &Value, want: &Value) {
    match (got, want) {
        (Value::Object(got), Value::Object(want)) => {
            let keys = |map: &serde_json::Map<String, Value>| {
                let mut keys: Vec<String> = map.keys().cloned().collect();
                keys.sort();
                keys
            };
            report.equal(case, "keys", keys(got), keys(want));
            for (key, want) in want {
                compare(report, case, key, &got[key], want);
            }
        }
        (Value::Array(got), Value::Array(want)) => {
            report.equal(case, at, got.len(), want.len());
            for (got, want) in got.iter().zip(want) {
                compare(report, case, at, got, want);
            }
        }
        (Value::String(got), Value::String(want)) => report.equal(case, at, got, want),
        (got, want) => {
            let limit = if ["pixelCount", "maskIntersection"].contains(&at) { 0.0 } else { 1e-9 };
            report.close_numbers(case, at, &[number(got)], &[number(want)], limit, 0.0);
        }
    }
}

/// A file that Python wrote or could have written: `NaN` becomes the text of the golden files.
fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let text = text.replace(" NaN", " \"nan\"");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn cityscapes() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "cityscapes_eval.json") {
        return;
    }
    let golden = json(&area.join("cityscapes_eval.json"));
    let tensors = Tensors::read(&area.join("cityscapes_predictions.safetensors"));
    let predictions = predictions(&golden, &tensors);
    let mut report = Report::new("evaluation/cityscapes");
    for (case, mode) in [("mask", CityScapesMode::Mask), ("poly", CityScapesMode::Poly)] {
        let Some(dataset) = dataset(mode) else { return };
        let golden = &golden["modes"][case];
        let folder = tempfile::tempdir().expect("a folder");
        let options = EvaluationOptions {
            iou_types: vec![IouType::Bbox, IouType::Segm],
            output_folder: Some(folder.path().to_owned()),
            ..EvaluationOptions::default()
        };
        let evaluate = || dataset.evaluator().evaluate(&dataset, &predictions, &options).expect("an evaluation");
        let (results, said) = listen(evaluate);
        let folder = folder.path().join("evaluationResults");
        for (file, key) in [("boxResult.json", "boxResult"), ("maskResult.json", "maskResult")] {
            compare(&mut report, &format!("{case} {key}"), "value", &read(&folder.join(file)), &golden[key]);
        }
        for (task, key) in [("bbox", "boxResult"), ("segm", "maskResult")] {
            for (metric, name) in [("AP", "allAp"), ("AP50", "allAp50%"), ("AP75", "allAp75%")] {
                let (got, want) =
                    (results.get(task, metric).expect("a metric"), number(&golden[key]["averages"][name]));
                report.close_numbers(case, metric, &[got], &[want], 1e-9, 0.0);
            }
        }
        if mode == CityScapesMode::Mask {
            let want = json(&area.join("cityscapes_matches.json"));
            compare(&mut report, "matches", "value", &read(&folder.join("matches.json")), &want);
        }
        let lines: Vec<&str> =
            golden["table_text"].as_array().expect("lines").iter().filter_map(Value::as_str).collect();
        let table = said.last().expect("a message").trim_start_matches("INFO: ");
        report.equal(case, "table", table.trim_end_matches('\n'), lines.join("\n").trim_end_matches('\n'));
    }
    report.finish();
}

#[test]
fn in_coco_form() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "cityscapes_as_coco.json") {
        return;
    }
    let golden = json(&area.join("cityscapes_as_coco.json"));
    let Some(dataset) = dataset(CityScapesMode::Mask) else { return };
    let truth = CocoGroundTruth::of_dataset(&dataset).expect("a ground truth");
    let got = &truth.coco().expect("annotations").dataset;
    let mut report = Report::new("evaluation/cityscapes in COCO form");
    let list = |key: &str| golden[key].as_array().expect("a list");
    report.equal("images", "number", got.images.len(), list("images").len());
    // The data set counts its images from 0, the original's file from 1.
    for (got, want) in got.images.iter().zip(list("images")) {
        report.equal("images", "id", got.id + 1, want["id"].as_u64().expect("an id"));
        let size = (i64::from(got.width), i64::from(got.height));
        report.equal("images", "size", Some(size), want["width"].as_i64().zip(want["height"].as_i64()));
    }
    for (got, want) in got.categories.iter().zip(list("categories")) {
        report.equal("categories", "id", Some(got.id), want["id"].as_u64());
        report.equal("categories", "name", Some(got.name.as_str()), want["name"].as_str());
    }
    report.equal("annotations", "number", got.annotations.len(), list("annotations").len());
    for (got, want) in got.annotations.iter().zip(list("annotations")) {
        let id = |key: &str| want[key].as_u64().expect("an id");
        let ids = (id("id"), id("image_id"), id("category_id"));
        report.equal("annotations", "ids", (got.id, got.image_id + 1, got.category_id), ids);
        report.equal("annotations", "area", got.area, want["area"].as_f64());
        let bbox = got.bbox.expect("a box").to_vec();
        report.equal("annotations", "box", bbox, crate::support::numbers(&want["bbox"]));
        let mask = serde_json::to_value(&got.segmentation).expect("a mask");
        report.equal("annotations", "mask", &mask["counts"], &want["segmentation"]["counts"]);
    }
    report.finish();
}
