//! Mixed precision: what is computed in 16 bits stays between layers.

use super::*;
use crate::ffi::Autocast;

fn with_dtype<'a>(parts: &[&'a str], dtype: &'a str) -> Config {
    config(&[parts, &["DTYPE", dtype]].concat())
}

/// Copies the weights of one model into another of the same kind.
fn copy_weights(from: &Parameters, to: &Parameters) {
    let _no_grad = tch::no_grad_guard();
    for (entry, source) in to.state().into_iter().zip(from.state()) {
        entry.tensor.shallow_clone().copy_(&source.tensor);
    }
}

#[test]
fn losses_gradients_and_detections_are_float32() {
    let _generator = crate::utils::testing::generator();
    let deformable = ("deformable", vec![FPN, "MODEL.RESNETS.STAGE_WITH_DCN (False,True,True,True)"]);
    for (kind, parts) in kinds().into_iter().chain([deformable]) {
        for dtype in ["bfloat16", "float16"] {
            let (model, parameters) = model(&with_dtype(&parts, dtype));
            let targets = [
                target(&[[8.0, 8.0, 40.0, 40.0], [30.0, 10.0, 60.0, 50.0]], (96, 64)),
                target(&[[4.0, 20.0, 50.0, 80.0]], (64, 96)),
            ];
            let losses = model.losses(&images(), &targets).unwrap();
            for (name, loss) in &losses {
                assert_eq!(loss.kind(), Kind::Float, "{kind}, {dtype}: {name}");
                // float16 can overflow in a network without trained norms.
                assert!(dtype == "float16" || loss.double_value(&[]).is_finite(), "{kind}: {name}");
            }
            total(&losses).backward();
            for (name, parameter) in parameters.trainable() {
                let grad = parameter.grad();
                assert!(grad.defined() && grad.kind() == Kind::Float, "{kind}, {dtype}: {name}");
            }
            for boxes in model.detect(&images()).unwrap() {
                let field = if model.roi_heads().is_some() || kind == "retinanet" { "scores" } else { "objectness" };
                assert_eq!(boxes.tensor_field(field).unwrap().kind(), Kind::Float, "{kind}, {dtype}");
            }
        }
    }
}

#[test]
fn weights_cast_together_give_the_gradients_of_autocast() {
    let _generator = crate::utils::testing::generator();
    let (own, weights) = model(&with_dtype(&[FPN], "bfloat16"));
    let (plain, of_plain) = model(&config(&[FPN]));
    copy_weights(&weights, &of_plain);
    let targets = [target(&[[8.0, 8.0, 40.0, 40.0]], (96, 64)), target(&[[4.0, 20.0, 50.0, 80.0]], (64, 96))];
    let losses = |model: &GeneralizedRcnn| {
        tch::manual_seed(11);
        model.losses(&images(), &targets).unwrap()
    };
    let together = losses(&own);
    let one_by_one = {
        let _autocast = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        losses(&plain)
    };
    for ((name, loss), (_, expected)) in together.iter().zip(&one_by_one) {
        assert_eq!(loss, expected, "{name}");
    }
    total(&together).backward();
    total(&one_by_one).backward();
    for ((name, parameter), (_, expected)) in weights.trainable().into_iter().zip(of_plain.trainable()) {
        assert!(parameter.grad() == expected.grad(), "{name}");
    }
}

#[test]
fn features_are_close_to_those_of_float32() {
    let (exact, weights) = model(&config(&[FPN]));
    for (dtype, limit) in [("bfloat16", 0.05), ("float16", 0.01)] {
        let (model, parameters) = model(&with_dtype(&[FPN], dtype));
        copy_weights(&weights, &parameters);
        let _no_grad = tch::no_grad_guard();
        let images = ImageList { tensors: images().tensors * 0.01, ..images() };
        let expected = exact.features(&images);
        let _autocast = model.autocast().unwrap();
        for (found, expected) in model.features(&images).iter().zip(&expected) {
            assert_ne!(found.kind(), Kind::Float, "{dtype}");
            let error = (found.to_kind(Kind::Float) - expected).norm() / expected.norm();
            let error = error.double_value(&[]);
            assert!(error > 0.0 && error < limit, "{dtype}: {error}");
        }
    }
}

#[test]
fn an_unknown_precision_is_refused_and_a_choice_of_format_on_the_cpu_too() {
    let error = contradictions::refused(&[FPN, "DTYPE half"]);
    assert!(error.contains("DTYPE") && error.contains("bfloat16"), "{error}");
    for choice in [true, false] {
        let error = model(&config(&[FPN])).0.with_channels_last(choice).err().expect("an error").to_string();
        assert!(error.contains("on a GPU only") && error.contains("oneDNN"), "{error}");
    }
}
