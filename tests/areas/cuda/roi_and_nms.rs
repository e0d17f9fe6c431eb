//! RoIAlign, RoIPool and NMS on the GPU: the golden cases, and the CPU kernels on seeded random inputs in every type.
//! The functions that are given [`Operators`] serve the emulated code as well.

use maskrcnn_benchmark::ffi::Generator;
use maskrcnn_benchmark::layers::{NmsGroups, SuppressionRule};
use tch::{Device, Kind, Tensor};

use super::operators;
use crate::operators::Operators;
use crate::ops::{self, channels_last, gradients, leaf};
use crate::support::{Determinism, Report};

#[test]
fn golden_roi_align() {
    let Some(operators) = operators() else { return };
    ops::roi_align_by(operators);
}

#[test]
fn golden_roi_pool() {
    let Some(operators) = operators() else { return };
    ops::roi_pool_by(operators);
}

#[test]
fn golden_nms() {
    let Some(operators) = operators() else { return };
    ops::nms_by(operators);
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

/// The gradient of a map comes to the operator in each of these ways.
const INCOMING: [&str; 3] = ["plain", "transposed", "expanded"];

/// A sum over the output to differentiate: with these factors, with those of its transposed form, or with ones.
fn sum(output: &Tensor, factors: &Tensor, incoming: &str) -> Tensor {
    match incoming {
        "plain" => output * factors,
        "transposed" => output.transpose(2, 3) * factors.transpose(2, 3).contiguous(),
        _ => output.shallow_clone(),
    }
    .sum(output.kind())
}

type Pooling = fn(Operators, &Tensor, &Tensor) -> Tensor;

fn compare(name: &str, operators: Operators, pool: Pooling) {
    let device = operators.device();
    let mut report = Report::new(name);
    // The second map is read at every other column, the regions are columns of a transposed matrix, and a batch may
    // have no region.
    // Channels are taken one by one, or, of maps in channels-last, in vectors where they fill them.
    let choices = [
        (Kind::Float, 60, 19),
        (Kind::Float, 60, 12),
        (Kind::Float, 0, 12),
        (Kind::Half, 60, 19),
        (Kind::Half, 60, 24),
        (Kind::BFloat16, 60, 24),
    ];
    for (kind, count, channels) in choices {
        let rois = rois(count, 5);
        let placed = rois.to_device(device).tr().contiguous().tr();
        let input = (random(&[2, channels, 30, 40], 7) * 2.0 - 1.0).to_kind(kind);
        let strided = Tensor::stack(&[&input, &input], -1).select(-1, 0);
        for incoming in INCOMING {
            let on_cpu = leaf(&input.to_kind(Kind::Float));
            let want = pool(Operators::On(Device::Cpu), &on_cpu, &rois);
            let factors = (random(&want.size(), 9) - 0.5).to_kind(kind);
            let want_sum = sum(&want, &factors.to_kind(Kind::Float), incoming);
            let want_grad = &Tensor::run_backward(&[want_sum], &[&on_cpu], false, false)[0];
            for (format, input) in
                [("nchw", input.copy()), ("channels_last", channels_last(&input)), ("strided", strided.shallow_clone())]
            {
                let case = format!("{kind:?}, {count} RoIs, {channels} channels");
                let on_cuda = match format {
                    "strided" if device == Device::Cpu => input.detach().set_requires_grad(true),
                    _ => leaf(&input.to_device(device)),
                };
                let got = pool(operators, &on_cuda, &placed);
                report.equal(&case, &format!("type {format}"), got.kind(), kind);
                let got_sum = sum(&got, &factors.to_device(device), incoming);
                let grad = &Tensor::run_backward(&[got_sum], &[&on_cuda], false, false)[0];
                report.equal(&case, &format!("type of the gradient {format}"), grad.kind(), kind);
                for (quantity, got, want) in [("output", &got, &want), ("gradient", grad, want_grad)] {
                    let greatest = if want.numel() == 0 { 0.0 } else { want.abs().max().double_value(&[]) };
                    let got = got.to_device(Device::Cpu).to_kind(Kind::Float);
                    let quantity = format!("{quantity} {format} {incoming}");
                    report.close(&case, &quantity, &got, want, limit(kind) * greatest, 0.0);
                }
            }
        }
    }
    report.finish();
}

#[test]
fn roi_align_equals_the_cpu_s() {
    let Some(operators) = operators() else { return };
    for deterministic in [false, true] {
        let _determinism = Determinism::set(deterministic);
        roi_align_like_the_cpu_s(operators);
    }
}

pub fn roi_align_like_the_cpu_s(operators: Operators) {
    // The second map in a pyramid of two.
    compare("cuda/roi_align pyramid", operators, |by, input, rois| {
        let maps = [input.detach().narrow(2, 0, 20).contiguous(), input.shallow_clone()];
        let levels = Tensor::arange(rois.size()[0], (Kind::Int64, rois.device())).remainder(4).clamp_max(1);
        by.multi_scale_roi_align(&maps, rois, &levels, (7, 5), &[0.25, 0.125], 2)
    });
    compare("cuda/roi_align fixed", operators, |by, input, rois| by.roi_align(input, rois, (7, 5), 0.125, 2));
    compare("cuda/roi_align adaptive", operators, |by, input, rois| by.roi_align(input, rois, (3, 4), 0.125, 0));
}

#[test]
fn roi_align_gives_the_same_bits_in_every_format() {
    let Some(operators) = operators() else { return };
    roi_align_of_every_format(operators);
}

#[test]
fn gradients_lie_in_memory_as_the_maps_do() {
    let Some(operators) = operators() else { return };
    roi_align_before_a_head_that_flattens(operators);
}

/// What comes back from such a head is NCHW.
pub fn roi_align_before_a_head_that_flattens(operators: Operators) {
    let device = operators.device();
    let rois = rois(20, 5).to_device(device);
    let levels = Tensor::arange(20, (Kind::Int64, device)).remainder(2);
    for kind in [Kind::Float, Kind::Half] {
        let map = |height: i64, width: i64| random(&[2, 16, height, width], 7).to_kind(kind).to_device(device);
        let maps = [map(30, 40), map(15, 20)].map(|map| leaf(&channels_last(&map)));
        let pooled = operators.multi_scale_roi_align(&maps, &rois, &levels, (7, 5), &[0.125, 0.0625], 2);
        let factors = random(&[20, 16 * 7 * 5], 9).to_kind(kind).to_device(device);
        let sum = (pooled.flatten(1, -1) * factors).sum(Kind::Float);
        for grad in Tensor::run_backward(&[sum], &maps.each_ref(), false, false) {
            assert!(grad.permute([0, 2, 3, 1]).is_contiguous(), "{kind:?}: strides {:?}", grad.stride());
        }
    }
}

/// Whether a thread takes one channel or several.
pub fn roi_align_of_every_format(operators: Operators) {
    let device = operators.device();
    let rois = rois(60, 5).to_device(device);
    for (kind, ratio) in [Kind::Float, Kind::Half, Kind::BFloat16].into_iter().flat_map(|kind| [(kind, 0), (kind, 2)]) {
        let input = (random(&[2, 24, 30, 40], 7) * 2.0 - 1.0).to_kind(kind).to_device(device);
        let nchw = operators.roi_align(&input, &rois, (7, 5), 0.125, ratio);
        let of_vectors = operators.roi_align(&channels_last(&input), &rois, (7, 5), 0.125, ratio);
        assert!(of_vectors.equal(&nchw), "{kind:?}, sampling ratio {ratio}");
    }
}

#[test]
fn roi_pool_equals_the_cpu_s() {
    let Some(operators) = operators() else { return };
    for deterministic in [false, true] {
        let _determinism = Determinism::set(deterministic);
        roi_pool_like_the_cpu_s(operators);
    }
}

pub fn roi_pool_like_the_cpu_s(operators: Operators) {
    compare("cuda/roi_pool", operators, |by, input, rois| by.roi_pool(input, rois, (7, 5), 0.125));
}

#[test]
fn rois_that_mean_nothing_give_nan() {
    let Some(operators) = operators() else { return };
    rois_that_mean_nothing(operators);
}

pub fn rois_that_mean_nothing(operators: Operators) {
    let device = operators.device();
    let input = leaf(&random(&[1, 3, 16, 16], 1).to_device(device));
    let rows = [[1.0f32, 0.0, 0.0, 8.0, 8.0], [0.0, f32::NAN, 0.0, 8.0, 8.0], [-1.0, 0.0, 0.0, 8.0, 8.0]];
    let rois = Tensor::from_slice(&rows.concat()).view([3, 5]).to_device(device);
    let size = (2, 2);
    for output in [operators.roi_align(&input, &rois, size, 1.0, 2), operators.roi_pool(&input, &rois, size, 1.0)] {
        assert!(bool::try_from(output.isnan().all()).unwrap());
        let grads = gradients(&output, &output.ones_like(), &[&input]);
        assert_eq!(grads[0].abs().sum(Kind::Float).double_value(&[]), 0.0);
    }
}

#[test]
fn nms_equals_the_cpu_s() {
    let Some(operators) = operators() else { return };
    nms_like_the_cpu_s(operators);
}

pub fn nms_like_the_cpu_s(operators: Operators) {
    let device = operators.device();
    let on_cpu = Operators::On(Device::Cpu);
    let mut report = Report::new("cuda/nms");
    for count in [0, 1, 63, 64, 65, 1000, 5000] {
        // Corners on a grid, so that overlaps at exactly the threshold are frequent, and scores in few steps.
        let corners = boxes(count, 40.0, count as u64).round();
        let scores = (random(&[count], 3) * 50.0).floor();
        let groups = (random(&[count], 4) * 7.0).floor().to_kind(Kind::Int64);
        let (on_gpu, scores_gpu, groups_gpu) =
            (corners.to_device(device).tr().contiguous().tr(), scores.to_device(device), groups.to_device(device));
        for threshold in [0.3, 0.5, 0.7] {
            let case = format!("{count} boxes, {threshold}");
            for rule in [SuppressionRule::AtLeast, SuppressionRule::Above] {
                let want = on_cpu.nms(&corners, &scores, threshold, rule);
                let got = operators.nms(&on_gpu, &scores_gpu, threshold, rule).to_device(Device::Cpu);
                report.check(&case, &format!("{rule:?}"), (got != want).then(|| "other boxes are kept".into()));
            }
            let all = NmsGroups { of_box: &groups_gpu, count: 7, largest: count };
            let mask = operators.nms_mask(&on_gpu, &scores_gpu, all, threshold).to_device(Device::Cpu);
            for group in 0..7 {
                let places = groups.eq(group).nonzero().squeeze_dim(1);
                let alone = (corners.index_select(0, &places), scores.index_select(0, &places));
                let want = on_cpu.nms(&alone.0, &alone.1, threshold, SuppressionRule::Above);
                let got = mask.index_select(0, &places).nonzero().squeeze_dim(1);
                report.check(&case, "group", (got != want).then(|| format!("group {group} keeps other boxes")));
            }
        }
    }
    report.finish();
}
