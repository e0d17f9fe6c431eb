//! Golden tests of the operators in `csrc/ops`. Matching, box coding, sampling, anchors, pooling over levels, masks and
//! keypoints are in `ops_modeling`, the plain layers in `models`.

use maskrcnn_benchmark::layers::{self, SuppressionRule};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::support::{self, Report, Tensors};

/// The cases of one operator: its parameters and tensors; `None` where the golden folder has no operators.
fn cases(operator: &str) -> Option<(serde_json::Map<String, Value>, Tensors)> {
    let folder = support::area("ops")?;
    let json = support::json(&folder.join(format!("{operator}.json")));
    let list = json["cases"].as_object().expect("cases are a table").clone();
    assert!(!list.is_empty(), "{operator}: no case");
    Some((list, Tensors::read(&folder.join(format!("{operator}.safetensors")))))
}

fn pair(value: &Value) -> (i64, i64) {
    let list = support::ints(value);
    (list[0], list[1])
}

/// A leaf that asks for its gradient.
fn leaf(tensor: &Tensor) -> Tensor {
    tensor.copy().set_requires_grad(true)
}

/// The gradients of `output` with respect to `inputs` for the given gradient of the output.
fn gradients(output: &Tensor, grad_output: &Tensor, inputs: &[&Tensor]) -> Vec<Tensor> {
    Tensor::run_backward(&[(output * grad_output).sum(output.kind())], inputs, false, false)
}

#[test]
fn roi_align() {
    let Some((cases, tensors)) = cases("roi_align") else { return };
    let mut report = Report::new("ops/roi_align");
    for (case, parameters) in &cases {
        let get = |name: &str| tensors.get(&format!("{case}/{name}"));
        for (format, input) in [("nchw", get("input").copy()), ("channels_last", channels_last(get("input")))] {
            let input = leaf(&input);
            let output = layers::roi_align(
                &input,
                get("rois"),
                pair(&parameters["output_size"]),
                parameters["spatial_scale"].as_f64().expect("a number"),
                parameters["sampling_ratio"].as_i64().expect("an integer"),
            );
            report.close(case, &format!("output {format}"), &output, get("output"), 1e-5, 0.0);
            if let Some(grad_output) = tensors.find(&format!("{case}/grad_output")) {
                let grads = gradients(&output, grad_output, &[&input]);
                report.close(case, &format!("grad_input {format}"), &grads[0], get("grad_input"), 1e-4, 0.0);
            }
        }
    }
    report.finish();
}

#[test]
fn nms() {
    let Some((cases, tensors)) = cases("nms") else { return };
    let mut report = Report::new("ops/nms");
    for (case, parameters) in &cases {
        let (boxes, scores) = (tensors.get(&format!("{case}/boxes")), tensors.get(&format!("{case}/scores")));
        for threshold in parameters["thresholds"].as_array().expect("a list") {
            let number = threshold.as_f64().expect("a number");
            for (name, rule) in [("cpu", SuppressionRule::AtLeast), ("cuda", SuppressionRule::Above)] {
                let want = tensors.get(&format!("{case}/keep_{name}_{threshold}"));
                let got = layers::nms_with_rule(boxes, scores, number, rule);
                report.equal(case, &format!("keep_{name}"), indices(&got), indices(want));
            }
        }
    }
    report.finish();
}

fn indices(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.to_kind(Kind::Int64)).expect("a list of indices")
}

/// The same values with the channels side by side in memory.
fn channels_last(tensor: &Tensor) -> Tensor {
    tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

#[test]
fn every_file_is_tested() {
    let Some(folder) = support::area("ops") else { return };
    let tested = [
        "roi_align",
        "nms",
        // ops_layers, ops_modeling and structures
        "layers",
        "poolers",
        "box_coder",
        "matcher",
        "balanced_sampler",
        "anchors",
        "masker",
        "keypoint_heatmaps",
    ];
    let not_yet = ["roi_pool", "sigmoid_focal_loss", "smooth_l1", "deform_conv"];
    let files = |names: &[&str]| -> Vec<String> {
        let both = |n: &&str| ["json", "safetensors"].map(|e| format!("{}.{e}", n));
        names.iter().flat_map(|n| both(n)).collect()
    };
    let (tested, not_yet) = (files(&tested), files(&not_yet));
    let tested: Vec<&str> = tested.iter().map(String::as_str).collect();
    let not_yet: Vec<(&str, &str)> = not_yet.iter().map(|n| (n.as_str(), "the part is being written")).collect();
    support::all_files_known(&folder, &tested, &not_yet);
}
