//! Golden tests of the operators in `csrc/ops`. Matching, box coding, sampling, anchors, pooling over levels, masks and
//! keypoints are in `ops_modeling`, the plain layers in `models`.

use maskrcnn_benchmark::layers::dcn::DeformConvGeometry;
use maskrcnn_benchmark::layers::{self, NmsGroups, SuppressionRule};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::operators::Operators;
use crate::support::{self, indices, Report, Tensors};

/// The cases of one operator: its parameters and tensors; `None` where the golden folder has no operators.
pub fn cases(operator: &str) -> Option<(serde_json::Map<String, Value>, Tensors)> {
    let folder = support::area("ops")?;
    let json = support::json(&folder.join(format!("{operator}.json")));
    let list = json["cases"].as_object().expect("cases are a table").clone();
    assert!(!list.is_empty(), "{operator}: no case");
    Some((list, Tensors::read(&folder.join(format!("{operator}.safetensors")))))
}

pub fn pair(value: &Value) -> (i64, i64) {
    let list = support::ints(value);
    (list[0], list[1])
}

/// A leaf that asks for its gradient.
pub fn leaf(tensor: &Tensor) -> Tensor {
    tensor.copy().set_requires_grad(true)
}

/// The gradients of `output` with respect to `inputs` for the given gradient of the output.
pub fn gradients(output: &Tensor, grad_output: &Tensor, inputs: &[&Tensor]) -> Vec<Tensor> {
    Tensor::run_backward(&[(output * grad_output).sum(output.kind())], inputs, false, false)
}

#[test]
fn roi_align() {
    roi_align_by(Operators::On(Device::Cpu));
}

pub fn roi_align_by(operators: Operators) {
    let device = operators.device();
    let Some((cases, tensors)) = cases("roi_align") else { return };
    let mut report = Report::new("ops/roi_align");
    for (case, parameters) in &cases {
        let find = |name: &str| tensors.find(&format!("{case}/{name}")).map(|tensor| tensor.to_device(device));
        let get = |name: &str| find(name).expect("a tensor of the case");
        for (format, input) in [("nchw", get("input").copy()), ("channels_last", channels_last(&get("input")))] {
            let input = leaf(&input);
            let output = operators.roi_align(
                &input,
                &get("rois"),
                pair(&parameters["output_size"]),
                parameters["spatial_scale"].as_f64().expect("a number"),
                parameters["sampling_ratio"].as_i64().expect("an integer"),
            );
            report.close(case, &format!("output {format}"), &output, &get("output"), 1e-5, 0.0);
            if let Some(grad_output) = find("grad_output") {
                let grads = gradients(&output, &grad_output, &[&input]);
                report.close(case, &format!("grad_input {format}"), &grads[0], &get("grad_input"), 1e-4, 0.0);
            }
        }
    }
    report.finish();
}

#[test]
fn nms() {
    nms_by(Operators::On(Device::Cpu));
}

pub fn nms_by(operators: Operators) {
    let device = operators.device();
    let Some((cases, tensors)) = cases("nms") else { return };
    let mut report = Report::new("ops/nms");
    for (case, parameters) in &cases {
        let get = |name: &str| tensors.get(&format!("{case}/{name}")).to_device(device);
        let (boxes, scores) = (get("boxes"), get("scores"));
        for threshold in parameters["thresholds"].as_array().expect("a list") {
            let number = threshold.as_f64().expect("a number");
            for (name, rule) in [("cpu", SuppressionRule::AtLeast), ("cuda", SuppressionRule::Above)] {
                let want = get(&format!("keep_{name}_{threshold}"));
                let got = operators.nms(&boxes, &scores, number, rule);
                report.equal(case, &format!("keep_{name}"), indices(&got), indices(&want));
                if rule == operators.suppression_rule() {
                    let one_group = Tensor::zeros([boxes.size()[0]], (Kind::Int64, device));
                    let groups = NmsGroups { of_box: &one_group, count: 1, largest: boxes.size()[0] };
                    let mask = operators.nms_mask(&boxes, &scores, groups, number);
                    report.equal(case, "mask", indices(&mask.nonzero().squeeze_dim(1)), indices(&want));
                }
            }
        }
    }
    report.finish();
}

/// The same values with the channels side by side in memory.
pub fn channels_last(tensor: &Tensor) -> Tensor {
    tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

#[test]
fn roi_pool() {
    roi_pool_by(Operators::On(Device::Cpu));
}

pub fn roi_pool_by(operators: Operators) {
    let device = operators.device();
    let Some((cases, tensors)) = cases("roi_pool") else { return };
    let mut report = Report::new("ops/roi_pool");
    for (case, parameters) in &cases {
        let get = |name: &str| tensors.get(&format!("{case}/{name}")).to_device(device);
        for (format, input) in [("nchw", get("input").copy()), ("channels_last", channels_last(&get("input")))] {
            let input = leaf(&input);
            let size = pair(&parameters["output_size"]);
            let output = operators.roi_pool(&input, &get("rois"), size, support::number(&parameters["spatial_scale"]));
            report.close(case, &format!("output {format}"), &output, &get("output"), 0.0, 0.0);
            let grads = gradients(&output, &get("grad_output"), &[&input]);
            report.close(case, &format!("grad_input {format}"), &grads[0], &get("grad_input"), 1e-5, 0.0);

            // The gradient of a sum over distinct factors shows which pixel was the maximum: the golden argmax.
            let argmax = get("argmax").to_kind(Kind::Int64);
            let flat = input.detach().flatten(2, -1).index_select(0, &get("rois").select(1, 0).to_kind(Kind::Int64));
            let chosen = flat.gather(2, &argmax.clamp_min(0).flatten(2, -1), false).view_as(&argmax);
            let chosen = chosen * argmax.ge(0).to_kind(Kind::Float);
            report.close(case, &format!("argmax {format}"), &output, &chosen, 0.0, 0.0);
        }
    }
    report.finish();
}

/// The limits are those of the golden README: 1e-5 relative and 1e-6 absolute. The `*_cpu` values are the formula of
/// the original's slow fallback: the same function, whose plain logarithms lose digits away from 0 and end in nan.
#[test]
fn sigmoid_focal_loss() {
    sigmoid_focal_loss_by(Operators::On(Device::Cpu));
}

pub fn sigmoid_focal_loss_by(operators: Operators) {
    let device = operators.device();
    let Some((cases, tensors)) = cases("sigmoid_focal_loss") else { return };
    let mut report = Report::new("ops/sigmoid_focal_loss");
    for (case, parameters) in &cases {
        let get = |name: &str| tensors.get(&format!("{case}/{name}")).to_device(device);
        let number = |name: &str| support::number(&parameters[name]);
        let logits = leaf(&get("logits"));
        let loss = operators.sigmoid_focal_loss(&logits, &get("targets"), number("gamma"), number("alpha"));
        report.close(case, "loss_kernel", &loss, &get("loss_kernel"), 1e-6, 1e-5);
        report.close(case, "sum_kernel", &loss.sum(Kind::Float).view(1), &get("sum_kernel"), 1e-6, 1e-5);
        let grads = |factors: &Tensor| {
            gradients(&loss_of(operators, &logits, parameters, &get("targets")), factors, &[&logits])
        };
        let grad = &grads(&get("grad_output"))[0];
        report.close(case, "grad_kernel", grad, &get("grad_kernel"), 1e-6, 1e-5);
        let of_sum = &grads(&loss.detach().ones_like())[0];
        report.close(case, "grad_kernel_of_sum", of_sum, &get("grad_kernel_of_sum"), 1e-6, 1e-5);
        let finite = |t: &Tensor| bool::try_from(t.isfinite().all()).expect("a truth value");
        if parameters["cpu_formula_has_nan"] == false {
            let moderate = logits.detach().abs().lt(4.0).to_kind(Kind::Float);
            let (got, want) = (loss.detach() * &moderate, &get("loss_cpu") * &moderate);
            report.close(case, "loss_cpu", &got, &want, 1e-6, 1e-5);
            report.close(case, "grad_cpu", grad, &get("grad_cpu"), 1e-6, 1e-5);
            report.close(case, "module_sum_cpu", &loss.sum(Kind::Float).view(1), &get("module_sum_cpu"), 1e-6, 1e-5);
        } else {
            report.equal(case, "loss is finite where the fallback's is not", finite(&loss), true);
            report.equal(case, "the fallback's loss", finite(&get("loss_cpu")), false);
        }
    }
    report.finish();
}

fn loss_of(operators: Operators, logits: &Tensor, parameters: &Value, targets: &Tensor) -> Tensor {
    let number = |name: &str| support::number(&parameters[name]);
    operators.sigmoid_focal_loss(logits, targets, number("gamma"), number("alpha"))
}

#[test]
fn smooth_l1() {
    let Some((cases, tensors)) = cases("smooth_l1") else { return };
    let mut report = Report::new("ops/smooth_l1");
    for (case, parameters) in &cases {
        let get = |name: &str| tensors.get(&format!("{case}/{name}"));
        for (reduction, average) in [("mean", true), ("sum", false)] {
            let input = leaf(get("input"));
            let beta = support::number(&parameters["beta"]);
            let loss = layers::smooth_l1_loss(&input, get("target"), beta, average);
            report.close(case, reduction, &loss.view(1), get(&format!("{reduction}/loss")), 0.0, 1e-5);
            let grads = Tensor::run_backward(&[loss], &[&input], false, false);
            let want = get(&format!("{reduction}/grad_input"));
            report.close(case, &format!("{reduction} gradient"), &grads[0], want, 1e-7, 1e-5);
        }
    }
    report.finish();
}

#[test]
fn deform_conv() {
    deform_conv_by(Operators::On(Device::Cpu));
}

pub fn deform_conv_by(operators: Operators) {
    let device = operators.device();
    let Some((cases, tensors)) = cases("deform_conv") else { return };
    let mut report = Report::new("ops/deform_conv");
    for (case, parameters) in cases.iter().filter(|(_, p)| p.get("layer").is_none()) {
        let get = |name: &str| tensors.get(&format!("{case}/{name}")).to_device(device);
        let int = |name: &str| parameters[name].as_i64().expect("an integer");
        let geometry = DeformConvGeometry {
            stride: (int("stride"), int("stride")),
            padding: pair(&parameters["padding"]),
            dilation: (int("dilation"), int("dilation")),
            groups: int("groups"),
            deformable_groups: int("deformable_groups"),
        };
        let modulated = parameters["modulated"] == true;
        for (format, input) in [("nchw", get("input").copy()), ("channels_last", channels_last(&get("input")))] {
            let mut names = vec!["input", "offset", "weight"];
            let mut leaves = vec![leaf(&input), leaf(&get("offset")), leaf(&get("weight"))];
            if modulated {
                names.push("mask");
                leaves.push(leaf(&get("mask")));
            }
            if parameters["bias"] == true {
                names.push("bias");
                leaves.push(leaf(&get("bias")));
            }
            let find = |name: &str| names.iter().position(|n| *n == name).map(|i| &leaves[i]);
            let (input, offset, weight) = (&leaves[0], &leaves[1], &leaves[2]);
            let output = operators.deform_conv(input, offset, find("mask"), weight, find("bias"), geometry);
            report.close(case, &format!("output {format}"), &output, &get("output"), 1e-4, 0.0);
            let references: Vec<&Tensor> = leaves.iter().collect();
            for (name, grad) in names.iter().zip(gradients(&output, &get("grad_output"), &references)) {
                let quantity = format!("grad_{name}");
                report.close(case, &format!("{quantity} {format}"), &grad, &get(&quantity), 1e-4, 1e-5);
            }
        }
    }
    report.finish();
}

#[test]
fn every_file_is_tested() {
    let Some(folder) = support::area("ops") else { return };
    let tested = [
        "roi_align",
        "nms",
        "roi_pool",
        "sigmoid_focal_loss",
        "smooth_l1",
        "deform_conv",
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
    let files: Vec<String> = tested.iter().flat_map(|n| ["json", "safetensors"].map(|e| format!("{n}.{e}"))).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    support::all_files_known(&folder, &files);
}
