//! From box lists as the network returns them to result files, metrics and log messages.

use std::collections::BTreeSet;
use std::path::Path;

use maskrcnn_benchmark::checkpoint::{read_file, Value as Saved};
use maskrcnn_benchmark::config::ExpectedResult;
use maskrcnn_benchmark::data::datasets::{COCODataset, Dataset};
use maskrcnn_benchmark::data::evaluation::coco::{evaluate_box_proposals, AreaRange, CocoEvaluator, CocoGroundTruth};
use maskrcnn_benchmark::data::evaluation::{check_expected_results, EvaluationOptions, Evaluator, IouType, Results};
use maskrcnn_benchmark::structures::{rle, BoxList, Keypoints, Mode};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{has, listen, named_file};
use crate::support::{area, ints, json, number, numbers, Report, Tensors};

fn size(value: &Value) -> (i64, i64) {
    let both = ints(value);
    (both[0], both[1])
}

fn dataset(golden: &Value) -> Option<COCODataset> {
    let file = named_file(&golden["ground_truth"])?;
    Some(COCODataset::new(&file, Path::new("images"), false).expect("a data set"))
}

/// One box list per image of the golden file, with what `fields` adds to it.
fn predictions(golden: &Value, tensors: &Tensors, fields: impl Fn(&str, &mut BoxList)) -> Vec<BoxList> {
    let images = golden["images"].as_array().expect("images");
    let list = |(i, image): (usize, &Value)| {
        let name = format!("image{i}");
        let boxes = tensors.find(&format!("{name}/boxes")).map(Tensor::shallow_clone);
        let boxes = boxes.unwrap_or_else(|| Tensor::zeros([0, 4], (Kind::Float, Device::Cpu)));
        let mut list = BoxList::new(boxes, size(&image["network_size_wh"]), Mode::Xyxy).expect("a box list");
        if !list.is_empty() {
            fields(&name, &mut list);
        }
        list
    };
    images.iter().enumerate().map(list).collect()
}

fn lines(golden: &Value) -> Vec<String> {
    golden.as_array().expect("lines").iter().map(|line| line.as_str().expect("text").to_owned()).collect()
}

/// The golden lines must appear in their order; between them are the tables that the original prints instead.
fn compare_log(report: &mut Report, case: &str, said: &[String], golden: &[String]) {
    let mut rest = said.iter();
    for line in golden {
        let found = rest.any(|l| same_line(l, line));
        report.check(case, "log", (!found).then(|| format!("{line:?} is not in {said:#?}")));
    }
    let tables = said.iter().filter(|l| !golden.iter().any(|g| same_line(l, g)));
    for table in tables {
        let known = table.starts_with("INFO: Results of ") || table.starts_with("INFO: AP of ");
        report.check(case, "log", (!known).then(|| format!("unexpected {table:?}")));
    }
}

/// Equal up to the last printed digits of the numbers of masks, which may differ by a few pixels.
fn same_line(a: &str, b: &str) -> bool {
    let is_number = |text: &str| text.parse::<f64>().ok();
    let words =
        |text: &str| -> Vec<String> { text.split([' ', ',', '\n', '(', ')', '=']).map(str::to_owned).collect() };
    let (a, b) = (words(a), words(b));
    let same = |(a, b): (&String, &String)| match (is_number(a), is_number(b)) {
        (Some(x), Some(y)) => (x - y).abs() <= 2e-3,
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(&b).all(same)
}

fn compare_results(report: &mut Report, case: &str, results: &Results, golden: &Value, limit: f64) {
    for (task, metrics) in golden.as_object().expect("tasks") {
        let limit = if task == "segm" { 2e-3 } else { limit };
        for (metric, want) in metrics.as_object().expect("metrics") {
            let got = results.get(task, metric).unwrap_or_else(|| panic!("no {task} {metric}"));
            report.close_numbers(case, &format!("{task} metrics"), &[got], &[number(want)], limit, 0.0);
        }
    }
}

fn compare_files(report: &mut Report, case: &str, folder: &Path, golden: &Value) {
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned())
        .collect();
    report.equal(case, "files", files, lines(golden).into_iter().collect());
}

fn compare_result_file(report: &mut Report, case: &str, got: &Path, want: &Path) {
    let (got, want) = (json(got), json(want));
    let (got, want) = (got.as_array().expect("results"), want.as_array().expect("results"));
    report.equal(case, "results", got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let keys = |v: &Value| v.as_object().expect("a result").keys().cloned().collect::<Vec<_>>();
        report.equal(case, "keys", keys(got), keys(want));
        for key in ["image_id", "category_id"] {
            report.equal(case, key, &got[key], &want[key]);
        }
        report.close_numbers(case, "score", &[number(&got["score"])], &[number(&want["score"])], 0.0, 0.0);
        for key in ["bbox", "keypoints"] {
            if want.get(key).is_some() {
                report.close_numbers(case, key, &numbers(&got[key]), &numbers(&want[key]), 1e-4, 1e-6);
            }
        }
        if want.get("segmentation").is_some() {
            let mask = |v: &Value| {
                let size = size(&v["segmentation"]["size"]);
                rle::from_string(v["segmentation"]["counts"].as_str().expect("counts"), size).expect("a mask")
            };
            let (got, want) = (mask(got), mask(want));
            let overlap = match rle::area(&got).max(rle::area(&want)) {
                0 => 1.0,
                _ => rle::iou(&[got], &[want], &[false]).expect("an overlap")[0][0],
            };
            report.check(case, "mask", (overlap <= 0.99).then(|| format!("IoU {overlap}")));
        }
    }
}

/// `coco_results.pth` or `box_proposals.pth`: task, metric, value in the order and with the classes of the original.
fn compare_saved(report: &mut Report, case: &str, path: &Path, results: &Results) {
    let saved = read_file(path).expect("a file");
    let Saved::Object(object) = &saved else { panic!("{case}: {} is no object", saved.type_name()) };
    let module = "maskrcnn_benchmark.data.datasets.evaluation.coco.coco_eval";
    report.equal(case, "class", (object.module.as_str(), object.name.as_str()), (module, "COCOResults"));
    let tasks = object.state.as_dict().and_then(|state| state.get("results")).and_then(Saved::as_dict);
    let tasks = tasks.expect("the attribute `results`");
    report.equal(case, "ordered", tasks.ordered, true);
    let names: Vec<&str> = tasks.entries.iter().filter_map(|(name, _)| name.as_str()).collect();
    report.equal(case, "tasks", names.clone(), results.tasks().collect::<Vec<_>>());
    for name in names {
        let metrics = tasks.get(name).and_then(Saved::as_dict).expect("metrics");
        let got: Vec<(String, f64)> = metrics
            .entries
            .iter()
            .map(|(metric, value)| (metric.as_str().expect("a name").to_owned(), value.as_float().expect("a number")))
            .collect();
        report.equal(case, "metrics", got, results.metrics(name).to_vec());
    }
}

#[test]
fn boxes_and_masks() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "entry.json") {
        return;
    }
    let golden = json(&area.join("entry.json"));
    let tensors = Tensors::read(&area.join("entry_predictions.safetensors"));
    let Some(dataset) = dataset(&golden) else { return };
    let predictions = predictions(&golden, &tensors, |name, list| {
        let get = |field: &str| tensors.get(&format!("{name}/{field}")).shallow_clone();
        list.add_field("scores", get("scores"));
        list.add_field("labels", get("labels"));
        list.add_field("mask", get("masks_u8").to_kind(Kind::Float).unsqueeze(1) / 255.0);
    });
    let expected = |value: &Value| {
        let text = |v: &Value| v.as_str().expect("text").to_owned();
        let range = numbers(&value[2]);
        ExpectedResult(text(&value[0]), text(&value[1]), range[0], range[1])
    };
    let folder = tempfile::tempdir().expect("a folder");
    let options = EvaluationOptions {
        iou_types: vec![IouType::Bbox, IouType::Segm],
        output_folder: Some(folder.path().to_owned()),
        ..EvaluationOptions::default()
    };
    let expected: Vec<ExpectedResult> =
        golden["expected_results_option"].as_array().expect("a list").iter().map(expected).collect();
    let (results, said) = listen(|| {
        let results = CocoEvaluator.evaluate(&dataset, &predictions, &options).expect("an evaluation");
        check_expected_results(&results, &expected, 4.0).expect("known tasks and metrics");
        results
    });
    let mut report = Report::new("evaluation/entry");
    compare_results(&mut report, "boxes and masks", &results, &golden["results"], 1e-6);
    compare_log(&mut report, "boxes and masks", &said, &lines(&golden["log_lines"]));
    compare_files(&mut report, "boxes and masks", folder.path(), &golden["files_written"]);
    for (file, want) in [("bbox.json", "entry_bbox.json"), ("segm.json", "entry_segm.json")] {
        compare_result_file(&mut report, file, &folder.path().join(file), &area.join(want));
    }
    compare_saved(&mut report, "coco_results.pth", &folder.path().join("coco_results.pth"), &results);
    let sample = std::fs::read_to_string(area.join("sample_output.txt")).expect("a text");
    let printed: Vec<&str> = sample.lines().filter(|l| l.starts_with(" Average ")).collect();
    let tables: Vec<&str> =
        said.iter().flat_map(|message| message.lines()).filter(|l| l.starts_with(" Average ")).collect();
    report.equal("tables", "lines", tables.len(), printed.len());
    for (got, want) in tables.iter().zip(&printed) {
        report.check("tables", "line", (!same_line(got, want)).then(|| format!("got {got}, expected {want}")));
    }
    report.finish();
}

#[test]
fn keypoints() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "entry_keypoints_meta.json") {
        return;
    }
    let golden = json(&area.join("entry_keypoints_meta.json"));
    let tensors = Tensors::read(&area.join("entry_keypoints_predictions.safetensors"));
    let Some(dataset) = dataset(&golden) else { return };
    let predictions = predictions(&golden, &tensors, |name, list| {
        let get = |field: &str| tensors.get(&format!("{name}/{field}")).shallow_clone();
        list.add_field("scores", get("scores"));
        list.add_field("labels", Tensor::ones([list.len() as i64], (Kind::Int64, Device::Cpu)));
        list.add_field("keypoints", Keypoints::person(get("keypoints"), list.size()).expect("keypoints"));
    });
    let folder = tempfile::tempdir().expect("a folder");
    let options = EvaluationOptions {
        iou_types: vec![IouType::Bbox, IouType::Keypoints],
        output_folder: Some(folder.path().to_owned()),
        ..EvaluationOptions::default()
    };
    let (results, said) = listen(|| CocoEvaluator.evaluate(&dataset, &predictions, &options).expect("an evaluation"));
    let mut report = Report::new("evaluation/entry keypoints");
    compare_results(&mut report, "keypoints", &results, &golden["results"], 1e-6);
    compare_log(&mut report, "keypoints", &said, &lines(&golden["log_lines"]));
    compare_files(&mut report, "keypoints", folder.path(), &golden["files_written"]);
    let (got, want) = (folder.path().join("keypoints.json"), area.join("entry_keypoints.json"));
    compare_result_file(&mut report, "keypoints.json", &got, &want);
    compare_saved(&mut report, "coco_results.pth", &folder.path().join("coco_results.pth"), &results);
    report.finish();
}

#[test]
fn proposals() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "proposals.json") {
        return;
    }
    let golden = json(&area.join("proposals.json"));
    let tensors = Tensors::read(&area.join("proposals.safetensors"));
    let Some(dataset) = dataset(&golden) else { return };
    let predictions = predictions(&golden, &tensors, |name, list| {
        list.add_field("objectness", tensors.get(&format!("{name}/objectness")).shallow_clone());
    });
    let mut report = Report::new("evaluation/proposals");
    let ground_truth = CocoGroundTruth::of_dataset(&dataset).expect("a ground truth");
    for case in golden["evaluations"].as_array().expect("evaluations") {
        let name = case["area"].as_str().expect("an area");
        let range = match name {
            "all" => AreaRange::All,
            "small" => AreaRange::Small,
            "medium" => AreaRange::Medium,
            "large" => AreaRange::Large,
            "96-128" => AreaRange::From96To128,
            "128-256" => AreaRange::From128To256,
            "256-512" => AreaRange::From256To512,
            "512-inf" => AreaRange::From512,
            other => panic!("unknown area {other}"),
        };
        let limit = case["limit"].as_i64();
        let got = evaluate_box_proposals(&ground_truth, &predictions, range, limit).expect("a recall");
        report.equal(name, "objects", got.objects as i64, case["num_pos"].as_i64().expect("a number"));
        report.close_numbers(name, "average", &[got.average.into()], &[number(&case["ar"])], 1e-6, 0.0);
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        report.close_numbers(name, "recalls", &wide(&got.recalls), &numbers(&case["recalls"]), 1e-6, 0.0);
        report.close_numbers(name, "thresholds", &wide(&got.thresholds), &numbers(&case["thresholds"]), 0.0, 0.0);
        let limit = limit.map_or("None".to_owned(), |l| l.to_string());
        let want = tensors.get(&format!("gt_overlaps/{name}/{limit}"));
        report.close(name, "overlaps", &Tensor::from_slice(&got.overlaps), want, 1e-6, 0.0);
    }

    let folder = tempfile::tempdir().expect("a folder");
    let options = EvaluationOptions {
        box_only: true,
        output_folder: Some(folder.path().to_owned()),
        ..EvaluationOptions::default()
    };
    let (results, said) = listen(|| CocoEvaluator.evaluate(&dataset, &predictions, &options).expect("an evaluation"));
    compare_results(&mut report, "entry", &results, &golden["box_proposals_results"], 1e-6);
    compare_log(&mut report, "entry", &said, &lines(&golden["log_lines"]));
    compare_files(&mut report, "entry", folder.path(), &golden["files_written"]);
    compare_saved(&mut report, "box_proposals.pth", &folder.path().join("box_proposals.pth"), &results);
    report.finish();
}

#[test]
fn predictions_that_do_not_fit_are_errors() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "entry.json") {
        return;
    }
    let golden = json(&area.join("entry.json"));
    let Some(dataset) = dataset(&golden) else { return };
    let mut report = Report::new("evaluation/errors");
    let list = |label: i64| {
        let bbox = Tensor::from_slice(&[1.0f32, 1.0, 20.0, 20.0]).view([1, 4]);
        let mut list = BoxList::new(bbox, (100, 100), Mode::Xyxy).expect("a box list");
        list.add_field("scores", Tensor::from_slice(&[0.5f32]));
        list.add_field("labels", Tensor::from_slice(&[label]));
        list
    };
    let evaluate = |predictions: &[BoxList], iou_type| {
        let options = EvaluationOptions { iou_types: vec![iou_type], ..EvaluationOptions::default() };
        let error = CocoEvaluator.evaluate(&dataset, predictions, &options).map(|r| r.to_string());
        format!("{:#}", error.expect_err("an error"))
    };
    let first = dataset.image_info(0).expect("an image").id.to_string();
    for (case, error, parts) in [
        ("label", evaluate(&[list(81)], IouType::Bbox), vec![first.as_str(), "label 81", "1 to 80"]),
        ("background", evaluate(&[list(0)], IouType::Bbox), vec!["label 0"]),
        ("no masks", evaluate(&[list(1)], IouType::Segm), vec![first.as_str(), "'mask'"]),
        ("no keypoints", evaluate(&[list(1)], IouType::Keypoints), vec!["'keypoints'"]),
    ] {
        for part in parts {
            report.check(case, "message", (!error.contains(part)).then(|| format!("{part:?} is not in {error:?}")));
        }
    }
    let many: Vec<BoxList> = (0..=dataset.len()).map(|_| list(1)).collect();
    let error = evaluate(&many, IouType::Bbox);
    report.check("too many", "message", (!error.contains("predictions for the")).then_some(error));
    report.finish();
}
