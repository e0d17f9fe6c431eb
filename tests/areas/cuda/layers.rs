//! Layers and samples that take another way on the GPU than on the CPU.

use maskrcnn_benchmark::ffi::{can_fuse_conv, Autocast};
use maskrcnn_benchmark::layers::{
    BatchNorm2d, Conv2d, ConvConfig, ConvNorm, FrozenBatchNorm2d, Norm, ParamPath, Parameters,
};
use maskrcnn_benchmark::modeling::balanced_positive_negative_sampler::BalancedPositiveNegativeSampler;
use maskrcnn_benchmark::modeling::batch::Rows;
use maskrcnn_benchmark::solver::{ParamGroup, Sgd};
use tch::{Device, Kind, Tensor};

use super::device;
use crate::ops::channels_last;
use crate::support::{generator, random, Report};

fn norm(kind: &str, path: &ParamPath, channels: i64) -> Option<Norm> {
    match kind {
        "frozen" => Some(Norm::Frozen(FrozenBatchNorm2d::new(path, channels))),
        "batch" => Some(Norm::Batch(BatchNorm2d::new(path, channels))),
        _ => None,
    }
}

/// The layer with seeded values, the same on every device.
fn layer(device: Device, kind: &str, kernel: i64, config: ConvConfig, relu: bool) -> (ConvNorm, Parameters) {
    let parameters = Parameters::new(device);
    let path = parameters.root();
    let conv = Conv2d::new(&path.sub("conv"), 64, 64, kernel, config);
    let layer = ConvNorm::new(conv, norm(kind, &path.sub("norm"), 64), relu);
    for (seed, entry) in (1..).zip(parameters.state()).filter(|(_, entry)| entry.tensor.kind() == Kind::Float) {
        let values = random(&entry.tensor.size(), seed) * 0.5;
        let values = if entry.name.ends_with("running_var") { values.abs() + 0.5 } else { values };
        tch::no_grad(|| entry.tensor.shallow_clone().copy_(&values.to_device(device)));
    }
    (layer, parameters)
}

/// With the norm in the weights and everything in one operator, where cuDNN can; and again after the weights changed.
#[test]
fn conv_norm_in_inference_equals_the_cpu_s() {
    let Some(device) = device() else { return };
    let _generator = generator();
    let mut report = Report::new("cuda/conv_norm");
    let config = |kernel: i64, stride, groups, bias| ConvConfig {
        stride,
        groups,
        bias,
        padding: kernel / 2,
        ..ConvConfig::default()
    };
    let convolutions = [(1, 1, 1, false), (3, 2, 1, true), (3, 1, 4, true), (7, 2, 1, false)];
    for kind in ["none", "frozen", "batch"] {
        for (kernel, stride, groups, bias) in convolutions {
            for relu in [false, true] {
                let of = |device| layer(device, kind, kernel, config(kernel, stride, groups, bias), relu);
                let ((on_cpu, cpu), (on_cuda, cuda)) = (of(Device::Cpu), of(device));
                let x = random(&[2, 64, 19, 23], 100).to_kind(Kind::Float);
                let residual = random(&on_cpu.forward(&x, false).size(), 101).to_kind(Kind::Float);
                let case = format!("{kind}, {kernel}x{kernel}, stride {stride}, {groups} groups, ReLU {relu}");
                let _no_grad = tch::no_grad_guard();
                for change in ["", " after a change"] {
                    for (kind, rounding) in [(Kind::Float, 1e-5), (Kind::Half, 2e-3), (Kind::BFloat16, 1.6e-2)] {
                        let _autocast = (kind != Kind::Float).then(|| Autocast::enter(device, kind).expect("autocast"));
                        for format in ["nchw", "channels_last"] {
                            let placed = |t: &Tensor| match format {
                                "nchw" => t.to_device(device),
                                _ => channels_last(t).to_device(device),
                            };
                            let input = placed(&x);
                            let fuses = format == "channels_last" && kind != Kind::Float;
                            report.equal(&case, "fuses", can_fuse_conv(&input), fuses);
                            let plain = (on_cuda.forward(&input, false), on_cpu.forward(&x, false));
                            let added = (
                                on_cuda.forward_residual(&input, &placed(&residual), false),
                                on_cpu.forward_residual(&x, &residual, false),
                            );
                            let sums = (
                                on_cuda.forward_plus(&input, &placed(&residual), false),
                                on_cpu.forward_plus(&x, &residual, false),
                            );
                            for (what, (got, want)) in [("plain", plain), ("residual", added), ("sum", sums)] {
                                let greatest = want.abs().max().double_value(&[]);
                                let got = got.to_device(Device::Cpu).to_kind(Kind::Float);
                                let quantity = format!("{what} {kind:?} {format}{change}");
                                report.close(&case, &quantity, &got, &want, rounding * greatest, 0.0);
                            }
                        }
                    }
                    for parameters in [&cpu, &cuda] {
                        let floats = parameters.state().into_iter().filter(|e| e.tensor.kind() == Kind::Float);
                        floats.for_each(|entry| drop(entry.tensor.shallow_clone().g_mul_scalar_(1.25)));
                    }
                }
            }
        }
    }
    report.finish();
}

/// With gradients, a bias, a residual and ReLU are one pass over the convolution's result.
#[test]
fn a_biased_convolution_trains_as_on_the_cpu() {
    let Some(device) = device() else { return };
    let _generator = generator();
    let mut report = Report::new("cuda/biased_conv");
    let config = ConvConfig { padding: 1, ..ConvConfig::default() };
    for (relu, adds) in [(false, false), (true, false), (false, true), (true, true)] {
        let run = |device: Device, kind: Kind, format: &str| {
            let (layer, parameters) = layer(device, "none", 3, config, relu);
            let placed = |t: Tensor| match format {
                "nchw" => t.to_device(device),
                _ => channels_last(&t).to_device(device),
            };
            let leaf = |seed| placed(random(&[2, 64, 19, 23], seed)).set_requires_grad(true);
            let (x, residual) = (leaf(100), leaf(101));
            let y = {
                let _autocast = (kind != Kind::Float).then(|| Autocast::enter(device, kind).expect("autocast"));
                match (adds, relu) {
                    (false, _) => layer.forward(&x, true),
                    (true, false) => layer.forward_plus(&x, &residual, true),
                    (true, true) => layer.forward_residual(&x, &residual, true),
                }
            };
            // Its gradient vanishes where rounding may move a value over the ReLU's edge.
            let loss = (y.to_kind(Kind::Float).square() * random(&y.size(), 102).to_device(device)).sum(Kind::Float);
            let mut inputs = vec![x];
            inputs.extend(parameters.state().into_iter().map(|entry| entry.tensor));
            inputs.extend(adds.then_some(residual));
            let mut results = Tensor::run_backward(&[loss], &inputs, false, false);
            results.push(y.detach());
            results
        };
        let want = run(Device::Cpu, Kind::Float, "nchw");
        for (kind, limit) in [(Kind::Float, 5e-5), (Kind::Half, 4e-3), (Kind::BFloat16, 3.2e-2)] {
            for format in ["nchw", "channels_last"] {
                let got = run(device, kind, format);
                assert_eq!(got.len(), want.len());
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let got = got.to_device(Device::Cpu).to_kind(Kind::Float);
                    let quantity = format!("{i} {kind:?} {format}");
                    let case = format!("ReLU {relu}, residual {adds}");
                    let difference = (&got - want).norm().double_value(&[]) / want.norm().double_value(&[]);
                    let complaint = (difference > limit).then(|| format!("{difference:.2e} off, limit {limit:.2e}"));
                    report.check(&case, &quantity, complaint);
                }
            }
        }
    }
    report.finish();
}

/// What three steps change in two convolutions, 3×3 and 1×1. With `laid_out`, everything is in channels-last, casts are
/// made ahead, and each step takes its momentum from a file.
fn trained(device: Device, kind: Kind, laid_out: bool) -> Vec<Tensor> {
    let parameters = Parameters::new(device);
    let conv = |name: &str, channels: [i64; 2], kernel: i64, relu: bool| {
        let config = ConvConfig { padding: kernel / 2, ..ConvConfig::default() };
        let conv = Conv2d::new(&parameters.root().sub(name), channels[0], channels[1], kernel, config);
        ConvNorm::new(conv, None, relu)
    };
    let layers = [conv("first", [16, 32], 3, true), conv("second", [32, 8], 1, false)];
    let mut before = Vec::new();
    for (seed, (_, tensor)) in (1..).zip(parameters.trainable()) {
        before.push(random(&tensor.size(), seed).to_kind(Kind::Float) * 0.3);
        tch::no_grad(|| tensor.shallow_clone().copy_(before.last().expect("just pushed")));
    }
    parameters.lay_out(laid_out);
    let x = random(&[2, 16, 19, 23], 100).to_kind(Kind::Float);
    let x = if laid_out { channels_last(&x) } else { x }.to_device(device);
    let optimizer = || {
        let group = |(name, tensor)| ParamGroup { name, tensor, lr: 0.01, initial_lr: 0.01, weight_decay: 1e-4 };
        Sgd::new(parameters.trainable().into_iter().map(group).collect(), 0.9)
    };
    let mut stepped = optimizer();
    for _ in 0..3 {
        stepped.zero_grad();
        let autocast = (kind != Kind::Float).then(|| Autocast::enter(device, kind).expect("autocast"));
        if let (Some(autocast), true) = (&autocast, laid_out) {
            autocast.cast_ahead(&parameters.factors()).expect("weights in float32");
        }
        let y = layers.iter().fold(x.shallow_clone(), |x, layer| layer.forward(&x, true));
        drop(autocast);
        y.to_kind(Kind::Float).square().mean(Kind::Float).backward();
        stepped.step();
        if laid_out {
            let state = stepped.state_dict();
            stepped = optimizer();
            stepped.load_state_dict(&state).expect("the same parameters");
        }
    }
    let after = parameters.trainable().into_iter().map(|(_, tensor)| tensor.detach().to_device(Device::Cpu));
    after.zip(before).map(|(after, before)| after - before).collect()
}

#[test]
fn steps_with_laid_out_filters_are_those_of_plain_ones() {
    let Some(device) = device() else { return };
    let _generator = generator();
    let mut report = Report::new("cuda/laid_out_filters");
    let want = trained(device, Kind::Float, false);
    for (kind, limit) in [(Kind::Float, 1e-4), (Kind::Half, 1e-2), (Kind::BFloat16, 6e-2)] {
        for laid_out in [false, true] {
            for (i, (got, want)) in trained(device, kind, laid_out).iter().zip(&want).enumerate() {
                let difference = (got - want).norm().double_value(&[]) / want.norm().double_value(&[]);
                let complaint = (difference > limit).then(|| format!("{difference:.2e} off, limit {limit:.2e}"));
                report.check(&format!("{kind:?}, laid out {laid_out}"), &format!("parameter {i}"), complaint);
            }
        }
    }
    report.finish();
}

#[test]
fn samples_are_candidates_and_as_many_as_on_the_cpu() {
    let Some(device) = device() else { return };
    let _generator = generator();
    let sampler = BalancedPositiveNegativeSampler::new(256, 0.5);
    // Of 268,000 anchors few are positive; of the second image's all are ignored, the third has few negatives.
    let numbers = random(&[268_000], 7);
    let few = numbers.gt(1.9995 - 1.0).to_kind(Kind::Int64);
    let labels = [few.shallow_clone(), few.full_like(-1), numbers.narrow(0, 0, 3000).gt(-0.9).to_kind(Kind::Int64)];
    let on_device: Vec<Tensor> = labels.iter().map(|labels| labels.to_device(device)).collect();
    let of_each = |labels: &[Tensor]| sampler.sample(labels).of_each(&Rows::of(labels));
    for ((got, want), labels) in of_each(&on_device).iter().zip(of_each(&labels)).zip(&labels) {
        for ((got, want), label) in got.iter().zip(want).zip([1, 0]) {
            let got = got.to_device(Device::Cpu);
            assert_eq!(got.size(), want.size());
            assert!(bool::try_from(labels.index_select(0, &got).eq(label).all()).unwrap());
            let places = Vec::<i64>::try_from(got).unwrap();
            assert!(places.is_sorted_by(|a, b| a < b));
        }
    }
}
