//! A convolution's bias as one pass over its result, against the convolution that adds it.

use super::*;
use crate::ffi::{channels_last, is_channels_last};
use crate::layers::gradcheck::{gradcheck, random};
use tch::Kind;

/// A convolution's bias, a residual and ReLU as one pass over its result, as CUDA has it.
fn in_one_pass(t: &[Tensor], residual: Option<&Tensor>, relu: bool) -> Tensor {
    let y = t[0].conv2d(&t[1], None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
    // Training is NCHW on the CPU, up to here.
    let y = if residual.is_some_and(is_channels_last) { channels_last(&y) } else { y };
    ffi::channel_affine(y, (None, &t[2]), residual, relu).expect("shapes that fit")
}

fn in_single_operators(t: &[Tensor], residual: Option<&Tensor>, relu: bool) -> Tensor {
    let y = t[0].conv2d(&t[1], Some(&t[2]), [1, 1], [1, 1], [1, 1], 1);
    add_and_rectify(y, residual, relu)
}

/// Input, weight, bias and residual.
fn drawn(kind: Kind) -> [Tensor; 4] {
    let shapes: [&[i64]; 4] = [&[2, 3, 5, 4], &[8, 3, 3, 3], &[8], &[2, 8, 5, 4]];
    let mut seed = 0;
    shapes.map(|shape| {
        seed += 1;
        random(shape, seed).to_kind(kind)
    })
}

#[test]
fn gradients_of_a_bias_in_one_pass_equal_finite_differences() {
    let [x, weight, bias, residual] = drawn(Kind::Double);
    for relu in [false, true] {
        gradcheck(|t| in_one_pass(t, None, relu), &[&x, &weight, &bias]);
        gradcheck(|t| in_one_pass(t, Some(&t[3]), relu), &[&x, &weight, &bias, &residual]);
    }
    // A shift beside a scale, which is a constant.
    let scale = random(&[8], 9);
    for relu in [false, true] {
        let run = |t: &[Tensor]| {
            ffi::channel_affine(&t[0] * 1.0, (Some(&scale), &t[1]), None, relu).expect("shapes that fit")
        };
        gradcheck(run, &[&residual, &bias]);
    }
}

/// In 16 bits, sums and products of `kind` on both sides, in another order.
#[test]
fn a_bias_in_one_pass_equals_the_single_operators() {
    for (kind, limit) in [(Kind::Float, 1e-5), (Kind::Half, 0.5f64.powi(8)), (Kind::BFloat16, 0.5f64.powi(5))] {
        for choice in 0..16 {
            let (relu, adds, bias_in_float) = (choice & 1 != 0, choice & 2 != 0, choice & 8 != 0);
            // The weights of a mixed-precision training stay float32.
            let single = |t: &Tensor| t.to_kind(Kind::Float).set_requires_grad(true);
            let run = |one_pass: bool| {
                let [x, weight, bias, residual] = drawn(kind);
                let residual = if choice & 4 != 0 { channels_last(&residual) } else { residual };
                let mut leaves = [x, weight, bias, residual].map(|t| t.set_requires_grad(true));
                let bias = if bias_in_float { single(&leaves[2].detach()) } else { leaves[2].shallow_clone() };
                leaves[2] = if one_pass { bias.shallow_clone() } else { bias.to_kind(kind) };
                let residual = adds.then(|| leaves[3].shallow_clone());
                let run = if one_pass { in_one_pass } else { in_single_operators };
                let y = run(&leaves, residual.as_ref(), relu);
                assert_eq!(y.kind(), kind);
                leaves[2] = bias;
                // The gradient vanishes where rounding may move a value over the ReLU's edge.
                let loss = (y.to_kind(Kind::Float).square() * random(&y.size(), 7)).sum(Kind::Float);
                let inputs = &leaves[..if adds { 4 } else { 3 }];
                let mut results = Tensor::run_backward(&[loss], inputs, false, false);
                results.push(y.detach());
                results
            };
            for (i, (got, want)) in run(true).iter().zip(run(false)).enumerate() {
                assert_eq!(got.kind(), want.kind(), "{kind:?} {choice} {i}");
                let (got, want) = (got.to_kind(Kind::Float), want.to_kind(Kind::Float));
                let greatest = want.abs().max().double_value(&[]);
                let error = (got - want).abs().max().double_value(&[]);
                assert!(error <= limit * greatest, "{kind:?}, choice {choice}, result {i}: {error}");
            }
        }
    }
}

/// Nothing but the sum of gradients is computed where the gradient passes as it is.
#[test]
fn a_frozen_convolution_trains_its_bias() {
    let [x, weight, bias, _] = drawn(Kind::Float);
    let bias = bias.set_requires_grad(true);
    let y = in_one_pass(&[x, weight, bias.shallow_clone()], None, false);
    let grads = Tensor::run_backward(&[y.sum(Kind::Float)], &[&bias], false, false);
    assert!(grads[0].equal(&Tensor::full_like(&bias, (2 * 5 * 4) as f64)));
}
