//! RoIAlign, RoIPool and NMS on the GPU: the golden cases, and the CPU kernels on seeded random inputs in every type.

use maskrcnn_benchmark::ffi::Generator;
use maskrcnn_benchmark::layers::{self, SuppressionRule};
use tch::{Device, Kind, Tensor};

use super::device;
use crate::ops::{self, channels_last, gradients, leaf};
use crate::support::Report;

#[test]
fn golden_roi_align() {
    let Some(device) = device() else { return };
    ops::roi_align_on(device);
}

#[test]
fn golden_roi_pool() {
    let Some(device) = device() else { return };
    ops::roi_pool_on(device);
}

#[test]
fn golden_nms() {
    let Some(device) = device() else { return };
    ops::nms_on(device);
}

/// Numbers in [0, 1), the same for the same seed.
fn random(shape: &[i64], seed: u64) -> Tensor {
    let numbers = Generator::new(seed).and_then(|mut g| g.rand(shape.iter().product())).expect("random numbers");
    Tensor::from_slice(&numbers).view(shape)
}

/// `[count, 4]` corners inside a square of `size` pixels, some of them reaching over its edges.
fn boxes(count: i64, size: f64, seed: u64) -> Tensor {
    let numbers = random(&[count, 4], seed);
    let corner = numbers.narrow(1, 0, 2) * (size * 1.1) - size * 0.05;
    Tensor::cat(&[&corner, &(&corner + numbers.narrow(1, 2, 2) * (size * 0.4))], 1)
}

/// RoIs of two images of 256 pixels.
fn rois(count: i64, seed: u64) -> Tensor {
    let image = (random(&[count, 1], seed + 1) * 2.0).floor();
    Tensor::cat(&[image, boxes(count, 256.0, seed)], 1)
}

/// The limit of one rounding in the type, relative to the greatest value, beside the order of the sums.
fn limit(kind: Kind) -> f64 {
    match kind {
        Kind::Float => 1e-5,
        Kind::Half => 0.5f64.powi(10),
        _ => 0.5f64.powi(7),
    }
}

fn compare(name: &str, device: Device, operator: impl Fn(&Tensor, &Tensor) -> Tensor) {
    let mut report = Report::new(name);
    let rois = rois(200, 5);
    for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
        let input = (random(&[2, 19, 64, 64], 7) * 2.0 - 1.0).to_kind(kind);
        let on_cpu = leaf(&input.to_kind(Kind::Float));
        let want = operator(&on_cpu, &rois);
        let factors = (random(&want.size(), 9) - 0.5).to_kind(kind);
        let want_grad = &gradients(&want, &factors.to_kind(Kind::Float), &[&on_cpu])[0];
        for (format, input) in [("nchw", input.copy()), ("channels_last", channels_last(&input))] {
            let on_gpu = leaf(&input.to_device(device));
            let got = operator(&on_gpu, &rois.to_device(device));
            report.equal("type", format, got.kind(), kind);
            let grad = &gradients(&got, &factors.to_device(device), &[&on_gpu])[0];
            for (quantity, got, want) in [("output", &got, &want), ("gradient", grad, want_grad)] {
                let greatest = want.abs().max().double_value(&[]);
                let got = got.to_device(Device::Cpu).to_kind(Kind::Float);
                report.close(
                    &format!("{kind:?}"),
                    &format!("{quantity} {format}"),
                    &got,
                    want,
                    limit(kind) * greatest,
                    0.0,
                );
            }
        }
    }
    report.finish();
}

#[test]
fn roi_align_equals_the_cpu_s() {
    let Some(device) = device() else { return };
    compare("cuda/roi_align fixed", device, |input, rois| layers::roi_align(input, rois, (7, 5), 0.25, 2));
    compare("cuda/roi_align adaptive", device, |input, rois| layers::roi_align(input, rois, (3, 4), 0.25, 0));
}

#[test]
fn roi_pool_equals_the_cpu_s() {
    let Some(device) = device() else { return };
    compare("cuda/roi_pool", device, |input, rois| layers::roi_pool(input, rois, (7, 5), 0.25));
}

#[test]
fn rois_that_mean_nothing_give_nan() {
    let Some(device) = device() else { return };
    let input = leaf(&random(&[1, 3, 16, 16], 1).to_device(device));
    let rows = [[1.0f32, 0.0, 0.0, 8.0, 8.0], [0.0, f32::NAN, 0.0, 8.0, 8.0], [-1.0, 0.0, 0.0, 8.0, 8.0]];
    let rois = Tensor::from_slice(&rows.concat()).view([3, 5]).to_device(device);
    for output in [layers::roi_align(&input, &rois, (2, 2), 1.0, 2), layers::roi_pool(&input, &rois, (2, 2), 1.0)] {
        assert!(bool::try_from(output.isnan().all()).unwrap());
        let grads = gradients(&output, &output.ones_like(), &[&input]);
        assert_eq!(grads[0].abs().sum(Kind::Float).double_value(&[]), 0.0);
    }
}

#[test]
fn nms_equals_the_cpu_s() {
    let Some(device) = device() else { return };
    let mut report = Report::new("cuda/nms");
    for count in [0, 1, 63, 64, 65, 1000, 5000] {
        // Corners on a grid, so that overlaps at exactly the threshold are frequent, and scores in few steps.
        let corners = boxes(count, 40.0, count as u64).round();
        let scores = (random(&[count], 3) * 50.0).floor();
        let groups = (random(&[count], 4) * 7.0).floor().to_kind(Kind::Int64);
        let (on_gpu, scores_gpu, groups_gpu) =
            (corners.to_device(device), scores.to_device(device), groups.to_device(device));
        for threshold in [0.3, 0.5, 0.7] {
            let case = format!("{count} boxes, {threshold}");
            for rule in [SuppressionRule::AtLeast, SuppressionRule::Above] {
                let want = layers::nms_with_rule(&corners, &scores, threshold, rule);
                let got = layers::nms_with_rule(&on_gpu, &scores_gpu, threshold, rule).to_device(Device::Cpu);
                report.check(&case, &format!("{rule:?}"), (got != want).then(|| "other boxes are kept".into()));
            }
            let mask = layers::nms_mask(&on_gpu, &scores_gpu, &groups_gpu, 7, threshold).to_device(Device::Cpu);
            for group in 0..7 {
                let places = groups.eq(group).nonzero().squeeze_dim(1);
                let alone = (corners.index_select(0, &places), scores.index_select(0, &places));
                let want = layers::nms_with_rule(&alone.0, &alone.1, threshold, SuppressionRule::Above);
                let got = mask.index_select(0, &places).nonzero().squeeze_dim(1);
                report.check(&case, "group", (got != want).then(|| format!("group {group} keeps other boxes")));
            }
        }
    }
    report.finish();
}
