//! `golden/ops/masker.*`: the function lives in `structures`, since evaluation uses it too.

use maskrcnn_benchmark::structures::{paste_mask_in_image, rle, BoxList, Masker, Mode};
use tch::{Device, Kind, Tensor};

use super::pair;
use crate::support::{area, ints, json, numbers, Report, Tensors};

/// Pixels that differ although the resized value is not within 1e-5 of the threshold: both neighbours of the threshold
/// must bracket the difference.
fn differing(masker: Masker, masks: &Tensor, boxes: &BoxList, want: &Tensor) -> i64 {
    let at = |shift: f64| {
        let masker = Masker::new(masker.threshold + shift, masker.padding);
        masker.forward_single_image(masks, boxes).expect("masks")
    };
    let want = want.to_kind(Kind::Bool);
    if masker.threshold < 0.0 {
        return at(0.0).ne_tensor(&want).sum(Kind::Int64).int64_value(&[]);
    }
    let (low, high) = (at(-1e-5), at(1e-5));
    let certain = low.eq_tensor(&high);
    at(0.0).ne_tensor(&want).logical_and(&certain).sum(Kind::Int64).int64_value(&[])
}

#[test]
fn masker() {
    let Some(area) = area("ops") else { return };
    let golden = json(&area.join("masker.json"));
    let tensors = Tensors::read(&area.join("masker.safetensors"));
    let mut report = Report::new("ops/masker");
    for (case, parameters) in golden["cases"].as_object().expect("cases") {
        let size = pair(&parameters["image_wh"]);
        let masks = tensors.get(&format!("{case}/masks"));
        let boxes = tensors.get(&format!("{case}/boxes")).shallow_clone();
        let boxes = BoxList::new(boxes, size, Mode::Xyxy).expect("boxes");
        for (name, threshold, padding) in
            [("pasted_0.5", 0.5, 1), ("pasted_0.3", 0.3, 1), ("pasted_0.5_padding2", 0.5, 2), ("pasted_-1", -1.0, 1)]
        {
            let masker = Masker::new(threshold, padding);
            let want = tensors.get(&format!("{case}/{name}"));
            report.equal(case, name, differing(masker, masks, &boxes, want), 0);
            let images = masker.forward_single_image(masks, &boxes).expect("masks");
            let expected: Vec<_> =
                (0..masks.size()[0]).map(|i| rle::encode(&images.get(i).get(0)).expect("rle")).collect();
            report.equal(case, "run lengths", masker.encode(masks, &boxes).expect("run lengths"), expected);
        }
    }
    let ones = Tensor::ones([14, 14], (Kind::Float, Device::Cpu));
    for (name, case) in golden["edge_cases"].as_object().expect("cases") {
        let corners: Vec<f32> = numbers(&case["box"]).into_iter().map(|c| c as f32).collect();
        let (width, height) = pair(&case["image_wh"]);
        let padding = case["padding"].as_i64().expect("a number");
        let corners = corners.try_into().expect("four corners");
        match (paste_mask_in_image(&ones, corners, (height, width), 0.5, padding), case["pixels_set"].as_i64()) {
            (Ok(image), Some(set)) => report.equal(name, "pixels", image.sum(Kind::Int64).int64_value(&[]), set),
            (result, want) => report.equal(name, "error", result.is_err(), want.is_none()),
        }
    }
    let none = BoxList::new(Tensor::zeros([0, 4], (Kind::Float, Device::Cpu)), (64, 48), Mode::Xyxy).expect("boxes");
    let masks = Tensor::zeros([0, 1, 28, 28], (Kind::Float, Device::Cpu));
    let empty = Masker::default().forward_single_image(&masks, &none).expect("no masks");
    report.equal("no boxes", "shape", empty.size(), ints(&golden["no_boxes_result_shape"]));
    report.finish();
}
