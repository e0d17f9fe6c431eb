//! The code between tensors and kernels (`csrc/ops/*/*_cuda.cpp`) and the autograd functions over it, as a GPU would
//! run them, on tensors of the host: the tests of the module `cuda`.

use maskrcnn_benchmark::ffi::{Autocast, DeformConvGeometry, DeformRoiPoolGeometry};
use maskrcnn_benchmark::layers::dcn;
use tch::{Device, Kind, Tensor};

use super::library::{self, in_each_order};
use super::{operators as emulated, random, regions};
use crate::cuda::{dense_ops, roi_and_nms};
use crate::operators::Operators;
use crate::ops::{self, gradients, leaf};
use crate::support::Determinism;

/// `None` (said aloud) where the sources are not there.
fn operators() -> Option<Operators> {
    // SAFETY: the function is not called.
    unsafe { library::operator::<unsafe extern "C" fn()>("mrb_nms") }.map(|_| Operators::Emulated)
}

/// With libtorch's deterministic algorithms new tensors are full of nan, so that what nobody writes is seen.
const DETERMINISTIC: [bool; 2] = [false, true];

#[test]
fn roi_align() {
    let Some(operators) = operators() else { return };
    for deterministic in DETERMINISTIC {
        let _determinism = Determinism::set(deterministic);
        ops::roi_align_by(operators);
        roi_and_nms::roi_align_like_the_cpu_s(operators);
        roi_and_nms::roi_align_of_every_format(operators);
        roi_and_nms::roi_align_before_a_head_that_flattens(operators);
        roi_and_nms::rois_that_mean_nothing(operators);
    }
}

#[test]
fn roi_pool() {
    let Some(operators) = operators() else { return };
    for deterministic in DETERMINISTIC {
        let _determinism = Determinism::set(deterministic);
        ops::roi_pool_by(operators);
        roi_and_nms::roi_pool_like_the_cpu_s(operators);
    }
}

#[test]
fn nms() {
    let Some(operators) = operators() else { return };
    let _determinism = Determinism::set(true);
    ops::nms_by(operators);
    roi_and_nms::nms_like_the_cpu_s(operators);
    let many = (1 << 17) + 1;
    let boxes = Tensor::zeros([many, 4], (Kind::Float, Device::Cpu));
    let error = emulated::nms(&boxes, &boxes.select(1, 0), 0.5, false).expect_err("more boxes than a launch takes");
    assert!(error.contains("at most 131072 boxes"), "{error}");
}

#[test]
fn box_matching() {
    let Some(operators) = operators() else { return };
    let _determinism = Determinism::set(true);
    dense_ops::match_by_iou_like_the_cpu(operators);
}

#[test]
fn sigmoid_focal_loss() {
    let Some(operators) = operators() else { return };
    let _determinism = Determinism::set(true);
    ops::sigmoid_focal_loss_by(operators);
    dense_ops::sigmoid_focal_loss_like_the_cpu(operators);
}

#[test]
fn channel_affine() {
    let Some(operators) = operators() else { return };
    let _determinism = Determinism::set(true);
    dense_ops::channel_affine_like_the_cpu(operators);
}

#[test]
fn deform_conv() {
    let Some(operators) = operators() else { return };
    let _determinism = Determinism::set(false);
    ops::deform_conv_by(operators);
    dense_ops::deform_conv_like_the_cpu(operators);
}

#[test]
fn deform_roi_pool() {
    let Some(operators) = operators() else { return };
    let _determinism = Determinism::set(false);
    dense_ops::deform_roi_pool_like_the_cpu(operators);
}

/// The gradients of deterministic RoIAlign and RoIPool do not know in which order threads run: the same bits.
#[test]
fn deterministic_gradients_are_the_same_in_each_order() {
    let Some(operators) = operators() else { return };
    let _determinism = Determinism::set(true);
    let rois = regions(40, 2, (80.0, 60.0), 3);
    let (mut aligned, mut pooled) = (Vec::new(), Vec::new());
    let grads = std::cell::RefCell::new((&mut aligned, &mut pooled));
    in_each_order(|| {
        let input = leaf(&random(&[2, 5, 15, 20], 4));
        let gradient = |output: Tensor| gradients(&output, &random(&output.size(), 5), &[&input]).remove(0);
        let mut grads = grads.borrow_mut();
        grads.0.push(gradient(operators.roi_align(&input, &rois, (3, 4), 0.25, 2)));
        grads.1.push(gradient(operators.roi_pool(&input, &rois, (3, 4), 0.25)));
    });
    for grads in [aligned, pooled] {
        assert_eq!(grads.len(), 3);
        assert!(grads.iter().all(|grad| *grad == grads[0]));
    }
}

fn deform_conv_inputs() -> [Tensor; 4] {
    let shapes: [&[i64]; 4] = [&[2, 4, 6, 5], &[2, 18, 6, 5], &[3, 4, 3, 3], &[2, 9, 6, 5]];
    let tensors: Vec<Tensor> = (1..).zip(shapes).map(|(seed, shape)| leaf(&random(shape, seed))).collect();
    tensors.try_into().expect("four")
}

fn padded() -> DeformConvGeometry {
    dcn::DeformConvGeometry { padding: (1, 1), ..Default::default() }.into()
}

/// Where threads add up in any order there is no deterministic form; the other gradients are there.
#[test]
fn deformable_operators_refuse_gradients_that_are_not_deterministic() {
    let Some(operators) = operators() else { return };
    let _determinism = Determinism::set(true);
    let refused = |output: &Tensor, input: &Tensor| {
        let error = Tensor::f_run_backward(&[output.sum(Kind::Float)], &[input], true, false).expect_err("refused");
        assert!(error.to_string().contains("train without --deterministic"), "{error}");
    };
    let [input, offset, weight, mask] = deform_conv_inputs();
    let output = emulated::deform_conv(&input, &offset, Some(&mask), &weight, &padded()).expect("deform_conv");
    refused(&output, &input);
    let factors = random(&output.size(), 9);
    let run = |by: Operators| {
        let geometry = dcn::DeformConvGeometry { padding: (1, 1), ..Default::default() };
        let output = by.deform_conv(&input.detach(), &offset, Some(&mask), &weight, None, geometry);
        gradients(&output, &factors, &[&offset, &weight, &mask])
    };
    for (got, want) in run(operators).iter().zip(run(Operators::On(Device::Cpu))) {
        assert!((got - want).abs().max().double_value(&[]) < 1e-4);
    }

    let geometry = DeformRoiPoolGeometry {
        spatial_scale: 1.0,
        pooled_size: 2,
        output_dim: 4,
        group_size: 1,
        part_size: 2,
        samples_per_part: 2,
        trans_std: 0.1,
    };
    let pooled = emulated::deform_roi_pool(&input, &regions(3, 2, (5.0, 6.0), 1), None, &geometry).expect("pooling");
    refused(&pooled, &input);
}

/// Under autocast the matrix products between the kernels would turn to 16 bits.
#[test]
fn deform_conv_keeps_its_type_under_autocast() {
    let Some(operators) = operators() else { return };
    let _determinism = Determinism::set(false);
    let run = || {
        let [input, offset, weight, mask] = deform_conv_inputs();
        let geometry = dcn::DeformConvGeometry { padding: (1, 1), ..Default::default() };
        let output = operators.deform_conv(&input, &offset, Some(&mask), &weight, None, geometry);
        let grads = gradients(&output, &random(&output.size(), 9), &[&input, &weight]);
        (output.detach(), grads)
    };
    let plain = run();
    let _autocast = Autocast::enter(Device::Cpu, Kind::BFloat16).expect("autocast on the CPU");
    assert!(run() == plain);
}

#[test]
fn types_without_a_kernel_are_refused() {
    if operators().is_none() {
        return;
    }
    let input = random(&[1, 4, 5, 5], 1).to_kind(Kind::Double);
    let rois = regions(2, 1, (5.0, 5.0), 2);
    let targets = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
    let errors = [
        emulated::roi_align(&input, &rois, (2, 2), 1.0, 2),
        emulated::roi_pool(&input, &rois, (2, 2), 1.0),
        emulated::sigmoid_focal_loss(&input.view([4, 25]), &targets, 2.0, 0.25),
        emulated::deform_conv(
            &input,
            &random(&[1, 18, 3, 3], 3).to_kind(Kind::Double),
            None,
            &input.view([1, 4, 5, 5]).narrow(2, 0, 3).narrow(3, 0, 3),
            &dcn::DeformConvGeometry::default().into(),
        ),
    ];
    for error in errors.map(|result| result.expect_err("double")) {
        assert!(error.contains("on CUDA the type must be float32, float16 or bfloat16, not Double"), "{error}");
    }
}
