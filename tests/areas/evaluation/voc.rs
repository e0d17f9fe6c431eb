//! Pascal VOC: curves, average precision and `result.txt`.

use maskrcnn_benchmark::data::datasets::{Dataset, PascalVOCDataset};
use maskrcnn_benchmark::data::evaluation::voc::{
    calc_detection_voc_ap, calc_detection_voc_prec_rec, eval_detection_voc,
};
use maskrcnn_benchmark::data::evaluation::EvaluationOptions;
use maskrcnn_benchmark::structures::{BoxList, Mode};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::has;
use crate::support::{area, ints, json, number, numbers, Report, Tensors};

fn compare(report: &mut Report, case: &str, ap: &[f64], map: f64, golden: &Value) {
    report.close_numbers(case, "AP", ap, &numbers(&golden["ap"]), 1e-12, 0.0);
    report.close_numbers(case, "mAP", &[map], &[number(&golden["map"])], 1e-12, 0.0);
}

#[test]
fn voc() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "voc_eval.json") {
        return;
    }
    let golden = json(&area.join("voc_eval.json"));
    let tensors = Tensors::read(&area.join("voc_eval.safetensors"));
    let devkit = area.join(golden["devkit"].as_str().expect("a folder"));
    let difficult = golden["use_difficult"].as_bool().expect("a flag");
    let dataset = PascalVOCDataset::new(&devkit, golden["split"].as_str().expect("a split"), difficult);
    let dataset = dataset.expect("a data set");
    let images = golden["images"].as_array().expect("images");
    let mut report = Report::new("evaluation/voc");
    let ids: Vec<String> = images.iter().map(|image| image["id"].as_str().expect("an id").to_owned()).collect();
    report.equal("data set", "ids", dataset.ids().to_vec(), ids);

    let mut predictions = Vec::new();
    let mut resized = Vec::new();
    let mut truth = Vec::new();
    for (i, image) in images.iter().enumerate() {
        let size = ints(&image["network_size_wh"]);
        let get = |field: &str| tensors.find(&format!("image{i}/{field}")).map(Tensor::shallow_clone);
        let none = || Tensor::zeros([0, 4], (Kind::Float, tch::Device::Cpu));
        let boxes = get("boxes").unwrap_or_else(none);
        let mut list = BoxList::new(boxes, (size[0], size[1]), Mode::Xyxy).expect("a box list");
        for field in ["labels", "scores"] {
            if let Some(tensor) = get(field) {
                list.add_field(field, tensor);
            }
        }
        let info = dataset.image_info(i).expect("an image");
        resized.push(list.resize((info.width, info.height)).expect("a box list"));
        truth.push(dataset.ground_truth(i).expect("a ground truth"));
        predictions.push(list);
    }

    let upstream = &golden["upstream"];
    for (name, overlap, eleven_points) in [
        ("iou0.5_07metric_True", 0.5, true),
        ("iou0.5_07metric_False", 0.5, false),
        ("iou0.7_07metric_True", 0.7, true),
        ("iou0.7_07metric_False", 0.7, false),
    ] {
        let result = eval_detection_voc(&resized, &truth, overlap, eleven_points).expect("an evaluation");
        compare(&mut report, name, &result.ap, result.map, &upstream[name]);
    }
    let curves = calc_detection_voc_prec_rec(&resized, &truth, 0.5).expect("curves");
    for (label, curve) in curves.iter().enumerate() {
        let golden = |what: &str| tensors.find(&format!("prec_rec/class{label}/{what}"));
        report.equal("curves", "present", curve.is_some(), golden("precision").is_some());
        let Some(curve) = curve else { continue };
        let precision = Tensor::from_slice(&curve.precision);
        report.close("curves", "precision", &precision, golden("precision").expect("a curve"), 1e-12, 0.0);
        report.equal("curves", "has recall", curve.recall.is_some(), golden("recall").is_some());
        if let (Some(recall), Some(want)) = (&curve.recall, golden("recall")) {
            report.close("curves", "recall", &Tensor::from_slice(recall), want, 1e-12, 0.0);
        }
    }
    report.equal("curves", "classes", calc_detection_voc_ap(&curves, true).len(), curves.len());

    let folder = tempfile::tempdir().expect("a folder");
    let options = EvaluationOptions { output_folder: Some(folder.path().to_owned()), ..EvaluationOptions::default() };
    let results = dataset.evaluator().evaluate(&dataset, &predictions, &options).expect("an evaluation");
    let golden = &upstream["do_voc_evaluation"];
    let ap: Vec<f64> = results.per_category("voc").iter().map(|(_, ap)| *ap).collect();
    report.close_numbers("entry", "AP", &ap, &numbers(&golden["ap"])[1..], 1e-12, 0.0);
    report.equal("entry", "first class", results.per_category("voc")[0].0.as_str(), "aeroplane");
    let map = results.get("voc", "mAP").expect("a mean");
    report.close_numbers("entry", "mAP", &[map], &[number(&golden["map"])], 1e-12, 0.0);
    let text = std::fs::read_to_string(folder.path().join("result.txt")).expect("a text");
    report.equal("entry", "result.txt", text.as_str(), golden["result_txt"].as_str().expect("a text"));
    report.finish();
}
