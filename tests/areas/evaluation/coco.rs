//! The metrics, from result files of the original's form.

use std::path::Path;
use std::sync::Arc;

use hotcoco::types::Annotation;
use hotcoco::{Params, COCO};
use maskrcnn_benchmark::data::evaluation::coco::{evaluate_predictions_on_coco, CocoEvaluation};
use maskrcnn_benchmark::data::evaluation::IouType;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::{has, named_file};
use crate::support::{area, ints, json, number, numbers, Report, Tensors};

fn detections(path: &Path) -> Vec<Annotation> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The overlaps, recall levels, categories, areas and limits that the golden precision has.
fn precision(evaluation: &CocoEvaluation, tensors: &Tensors) -> Tensor {
    let all = evaluation.accumulated();
    let shape = &all.shape;
    let full = [shape.t, shape.r, shape.k, shape.a, shape.m].map(|n| n as i64);
    let mut precision = Tensor::from_slice(&all.precision).view(full);
    for (dim, name) in [(2, "category"), (3, "area"), (4, "max_dets")] {
        precision = precision.index_select(dim, tensors.get(&format!("precision_{name}_index")));
    }
    precision
}

fn compare_arrays(report: &mut Report, case: &str, evaluation: &CocoEvaluation, tensors: &Tensors) {
    let (got, want) = (precision(evaluation, tensors), tensors.get("precision"));
    report.close(case, "precision", &got, want, 1e-6, 0.0);
    let absent = |t: &Tensor| t.to_kind(Kind::Float).eq(-1.0).to_kind(Kind::Uint8);
    report.close(case, "absent precision", &absent(&got), &absent(want), 0.0, 0.0);
    let all = evaluation.accumulated();
    let shape = [all.shape.t, all.shape.k, all.shape.a, all.shape.m].map(|n| n as i64);
    let recall = Tensor::from_slice(&all.recall).view(shape);
    report.close(case, "recall", &recall, tensors.get("recall"), 1e-9, 0.0);
    let categories: Vec<i64> = all.cat_ids.iter().map(|&id| id as i64).collect();
    let expected = Vec::<i64>::try_from(tensors.get("category_ids")).expect("ids");
    report.equal(case, "category ids", categories, expected);
}

fn compare_categories(report: &mut Report, case: &str, evaluation: &CocoEvaluation, golden: &Value) {
    let got = evaluation.per_category();
    for want in golden.as_array().expect("categories") {
        let id = want["category_id"].as_u64().expect("an id");
        let found = got.iter().find(|c| c.id == id).unwrap_or_else(|| panic!("no category {id}"));
        report.equal(case, "category name", found.name.as_str(), want["name"].as_str().expect("a name"));
        // A category without objects has null there, -1 here.
        let expected = ["AP", "AP50", "AP75"].map(|key| if want[key].is_null() { -1.0 } else { number(&want[key]) });
        report.close_numbers(case, "category AP", &[found.ap, found.ap50, found.ap75], &expected, 1e-9, 0.0);
    }
}

#[test]
fn metrics() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "coco_eval_bbox.json") {
        return;
    }
    let mut report = Report::new("evaluation/coco");
    for iou_type in [IouType::Bbox, IouType::Segm, IouType::Keypoints] {
        let case = iou_type.name();
        let golden = json(&area.join(format!("coco_eval_{case}.json")));
        let Some(file) = named_file(&golden["ground_truth"]) else { continue };
        let ground_truth = Arc::new(COCO::new(&file).expect("a ground truth"));
        let results = detections(&area.join(golden["detections"].as_str().expect("a name")));
        report.equal(case, "detections", results.len() as i64, golden["num_detections"].as_i64().expect("a number"));
        let evaluation = evaluate_predictions_on_coco(&ground_truth, results.clone(), iou_type).expect("metrics");
        report.close_numbers(case, "stats", evaluation.stats(), &numbers(&golden["stats"]), 1e-9, 0.0);
        let lines: Vec<&str> =
            golden["summary_text"].as_array().expect("lines").iter().filter_map(Value::as_str).collect();
        let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
        report.equal(
            case,
            "summary",
            evaluation.summary_lines().to_vec(),
            lines.iter().map(|l| l.to_string()).collect(),
        );
        let tensors = Tensors::read(&area.join(format!("coco_eval_{case}.safetensors")));
        compare_arrays(&mut report, case, &evaluation, &tensors);
        compare_categories(&mut report, case, &evaluation, &golden["per_category"]);

        for (name, want) in golden["variants"].as_object().expect("variants") {
            let strong = |r: &Annotation| r.score >= Some(0.5);
            let mut results = results.clone();
            let images: Vec<u64> = ints(&golden["params"]["imgIds"]).into_iter().map(|id| id as u64).collect();
            let adjust: Box<dyn FnOnce(&mut Params)> = match name.as_str() {
                "useCats_0" => Box::new(|p| p.use_cats = false),
                "maxDets_2_5_100" => Box::new(|p| p.max_dets = vec![2, 5, 100]),
                "first_20_images" => Box::new(move |p| p.img_ids = images[..20].to_vec()),
                "score_at_least_0.5" => {
                    results.retain(strong);
                    Box::new(|_| ())
                }
                other => panic!("unknown variant {other}"),
            };
            let evaluation = CocoEvaluation::new(&ground_truth, results, iou_type, adjust).expect("metrics");
            report.close_numbers(case, name, evaluation.stats(), &numbers(want), 1e-9, 0.0);
        }
    }
    report.finish();
}

#[test]
fn no_detections_at_all() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "coco_eval_bbox.json") {
        return;
    }
    let golden = json(&area.join("coco_eval_bbox.json"));
    let Some(file) = named_file(&golden["ground_truth"]) else { return };
    let ground_truth = Arc::new(COCO::new(&file).expect("a ground truth"));
    let mut report = Report::new("evaluation/coco without detections");
    for iou_type in [IouType::Bbox, IouType::Segm] {
        let evaluation = evaluate_predictions_on_coco(&ground_truth, Vec::new(), iou_type).expect("metrics");
        report.close_numbers(iou_type.name(), "stats", evaluation.stats(), &[0.0; 12], 0.0, 0.0);
    }
    report.finish();
}
