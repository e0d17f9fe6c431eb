//! Focal loss, box matching and the deformable operators on the GPU: the golden cases, and the CPU kernels on seeded
//! random inputs in every type. The functions that are given [`Operators`] serve the emulated code as well.

use maskrcnn_benchmark::ffi::DeformRoiPoolGeometry;
use maskrcnn_benchmark::layers::dcn::DeformConvGeometry;
use maskrcnn_benchmark::layers::Predictions;
use tch::{Device, Kind, Tensor};

use super::operators;
use crate::operators::Operators;
use crate::ops::{self, channels_last, gradients, leaf};
use crate::support::{random, Report};

const KINDS: [Kind; 3] = [Kind::Float, Kind::Half, Kind::BFloat16];

#[test]
fn golden_sigmoid_focal_loss() {
    let Some(operators) = operators() else { return };
    ops::sigmoid_focal_loss_by(operators);
}

#[test]
fn golden_deform_conv() {
    let Some(operators) = operators() else { return };
    ops::deform_conv_by(operators);
}

/// How the values of an operator's inputs lie in memory.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Contiguous,
    /// For four dimensions.
    ChannelsLast,
    /// Every other value of a larger tensor.
    Strided,
}

impl Layout {
    fn of(self, tensor: &Tensor) -> Tensor {
        match self {
            Self::ChannelsLast if tensor.dim() == 4 => channels_last(tensor),
            Self::Contiguous | Self::ChannelsLast => tensor.copy(),
            Self::Strided => Tensor::stack(&[tensor, tensor], -1).select(-1, 0),
        }
    }
}

const LAYOUTS: [Layout; 3] = [Layout::Contiguous, Layout::ChannelsLast, Layout::Strided];

/// Runs an operator on the CPU in float32 and as CUDA does it in `kind`, on the same values in several layouts, and
/// compares the output and the gradients of all inputs.
///
/// The limit is that of sums and products in the type, relative to the greatest value: 1e-5 in float32, four units in
/// the last place in float16 (2⁻⁸) and bfloat16 (2⁻⁵), as the matrix products of the deformable convolution round their
/// factors.
fn compare(
    report: &mut Report,
    case: &str,
    operators: Operators,
    kind: Kind,
    inputs: &[(&str, Tensor)],
    run: impl Fn(Operators, &[Tensor]) -> Tensor,
) {
    let rounded: Vec<Tensor> = inputs.iter().map(|(_, t)| t.to_kind(kind).to_kind(Kind::Float)).collect();
    let on_cpu: Vec<Tensor> = rounded.iter().map(leaf).collect();
    let want = run(Operators::On(Device::Cpu), &on_cpu);
    let factors = random(&want.size(), 99).to_kind(kind).to_kind(Kind::Float);
    let want_grads = gradients(&want, &factors, &on_cpu.iter().collect::<Vec<_>>());
    let limit = match kind {
        Kind::Float => 1e-5,
        Kind::Half => 0.5f64.powi(8),
        _ => 0.5f64.powi(5),
    };
    let device = operators.device();
    for layout in LAYOUTS {
        let typed = |t: &Tensor| layout.of(&t.to_kind(kind).to_device(device));
        let on_cuda: Vec<Tensor> = rounded.iter().map(|t| typed(t).set_requires_grad(true)).collect();
        let got = run(operators, &on_cuda);
        let got_grads = gradients(&got, &typed(&factors), &on_cuda.iter().collect::<Vec<_>>());
        let names = std::iter::once("output").chain(inputs.iter().map(|(name, _)| *name));
        let got = std::iter::once(&got).chain(&got_grads);
        let want = std::iter::once(&want).chain(&want_grads);
        for ((name, got), want) in names.zip(got).zip(want) {
            let greatest = if want.numel() == 0 { 0.0 } else { want.abs().max().double_value(&[]) };
            let quantity = format!("{name} {kind:?} {layout:?}");
            report.close(case, &quantity, got, want, limit * greatest + 1e-6, 0.0);
            report.equal(case, &format!("{quantity} type"), got.kind(), kind);
        }
    }
}

#[test]
fn sigmoid_focal_loss_equals_the_cpu() {
    let Some(operators) = operators() else { return };
    sigmoid_focal_loss_like_the_cpu(operators);
}

pub fn sigmoid_focal_loss_like_the_cpu(operators: Operators) {
    let mut report = Report::new("cuda/sigmoid_focal_loss");
    for (rows, classes) in [(0, 3), (37, 5), (5000, 80)] {
        let targets = ((random(&[rows], 1) + 1.0) * (0.5 * (classes + 2) as f64)).floor() - 1.0;
        for kind in KINDS {
            let case = format!("{rows}x{classes}");
            let logits = [("logits", random(&[rows, classes], 2) * 8.0)];
            compare(&mut report, &case, operators, kind, &logits, |operators, t| {
                let targets = Layout::Strided.of(&targets.to_device(operators.device()));
                operators.sigmoid_focal_loss(&t[0], &targets, 2.0, 0.25)
            });
        }
    }
    report.finish();
}

#[test]
fn match_by_iou_equals_the_cpu() {
    let Some(operators) = operators() else { return };
    match_by_iou_like_the_cpu(operators);
}

pub fn match_by_iou_like_the_cpu(operators: Operators) {
    let mut report = Report::new("cuda/box_matching");
    let boxes = |count: i64, seed: u64| {
        let sides = ((random(&[count, 2], seed) + 1.0) * 6.0).floor();
        let corner = ((random(&[count, 2], seed + 1) + 1.0) * 10.0).floor();
        Tensor::cat(&[&corner, &(&corner + sides)], 1)
    };
    // More images than a launch takes, some without objects, some without predictions.
    let many: Vec<(i64, i64)> = (0..130).map(|image| (image % 5 * 3, image % 7 * 11)).collect();
    let batches: [&[(i64, i64)]; 7] = [
        &[(1, 1)],
        &[(600, 7000)],
        &[(20, 300_000)],
        &[(5, 0)],
        &[(3, 1000), (0, 30), (7, 0), (0, 0), (300, 600)],
        &[(0, 300), (0, 20)],
        &many,
    ];
    let alone = batches.iter().map(|batch| (*batch, false));
    for (batch, shared) in alone.chain([(batches[4], true), (&many, true)]) {
        let (gt_counts, mut counts): (Vec<i64>, Vec<i64>) = batch.iter().copied().unzip();
        if shared {
            counts = vec![300];
        }
        let (gt, predictions) = (boxes(gt_counts.iter().sum(), 1), boxes(counts.iter().sum(), 3));
        let run = |operators: Operators| {
            let placed = |t: &Tensor| Layout::Strided.of(&t.to_device(operators.device()));
            let (gt, predictions) = (placed(&gt), placed(&predictions));
            let predictions =
                if shared { Predictions::Shared(&predictions) } else { Predictions::OfEach(&predictions, &counts) };
            operators.match_by_iou(&gt, &gt_counts, predictions)
        };
        let (want, got) = (run(Operators::On(Device::Cpu)), run(operators));
        let case = format!("{gt_counts:?} with {counts:?}{}", if shared { " for all" } else { "" });
        let pairs = [
            ("best IoU", &got.best_iou, &want.best_iou),
            ("best ground truth", &got.best_gt, &want.best_gt),
            ("attains the maximum", &got.attains_gt_maximum, &want.attains_gt_maximum),
        ];
        for (name, got, want) in pairs {
            report.close(&case, name, got, want, 0.0, 0.0);
        }
    }
    report.finish();
}

#[test]
fn deform_conv_equals_the_cpu() {
    let Some(operators) = operators() else { return };
    deform_conv_like_the_cpu(operators);
}

pub fn deform_conv_like_the_cpu(operators: Operators) {
    let mut report = Report::new("cuda/deform_conv");
    let plain = DeformConvGeometry { padding: (1, 1), ..Default::default() };
    let cases = [
        ([1, 4, 5, 6], plain),
        ([0, 4, 5, 6], plain),
        ([5, 8, 8, 9], plain), // emulated: three images, then two
        ([3, 36, 17, 11], DeformConvGeometry { groups: 2, deformable_groups: 3, ..plain }),
        ([2, 64, 40, 60], DeformConvGeometry { stride: (2, 2), dilation: (2, 2), padding: (2, 2), ..plain }),
    ];
    for ([images, channels, height, width], geometry) in cases {
        let side = |n: i64| (n + 2 * geometry.padding.0 - 2 * geometry.dilation.0 - 1) / geometry.stride.0 + 1;
        let (out_height, out_width, planes) = (side(height), side(width), 9 * geometry.deformable_groups);
        let inputs = [
            ("input", random(&[images, channels, height, width], 1)),
            ("offset", random(&[images, 2 * planes, out_height, out_width], 2) * 3.0),
            ("weight", random(&[8, channels / geometry.groups, 3, 3], 3)),
            ("mask", random(&[images, planes, out_height, out_width], 4)),
        ];
        for kind in KINDS {
            let case = format!("{images}x{channels}x{height}x{width}, {geometry:?}");
            compare(&mut report, &format!("{case}, mask"), operators, kind, &inputs, |operators, t| {
                operators.deform_conv(&t[0], &t[1], Some(&t[3]), &t[2], None, geometry)
            });
            compare(&mut report, &case, operators, kind, &inputs[..3], |operators, t| {
                operators.deform_conv(&t[0], &t[1], None, &t[2], None, geometry)
            });
        }
    }
    report.finish();
}

#[test]
fn deform_roi_pool_equals_the_cpu() {
    let Some(operators) = operators() else { return };
    deform_roi_pool_like_the_cpu(operators);
}

pub fn deform_roi_pool_like_the_cpu(operators: Operators) {
    let mut report = Report::new("cuda/deform_roi_pool");
    let geometry = DeformRoiPoolGeometry {
        spatial_scale: 0.25,
        pooled_size: 7,
        output_dim: 6,
        group_size: 2,
        part_size: 3,
        samples_per_part: 4,
        trans_std: 0.1,
    };
    for count in [0, 1, 300] {
        let corner = (random(&[count, 2], 1) + 1.0) * 60.0;
        let far = &corner + random(&[count, 2], 2).abs() * 90.0;
        let image = Tensor::arange(count, (Kind::Float, Device::Cpu)).remainder(2).view([-1, 1]);
        let rois = Tensor::cat(&[image, corner, far], 1);
        let inputs = [("input", random(&[2, 24, 25, 40], 3)), ("trans", random(&[count, 4, 3, 3], 4))];
        for kind in KINDS {
            let case = format!("{count} RoIs");
            let rois = |operators: Operators| Layout::Strided.of(&rois.to_device(operators.device()));
            compare(&mut report, &format!("{case}, offsets"), operators, kind, &inputs, |operators, t| {
                operators.deform_roi_pool(&t[0], &rois(operators), Some(&t[1]), &geometry)
            });
            compare(&mut report, &case, operators, kind, &inputs[..1], |operators, t| {
                operators.deform_roi_pool(&t[0], &rois(operators), None, &geometry)
            });
        }
    }
    report.finish();
}

#[test]
fn channel_affine_equals_the_cpu() {
    let Some(operators) = operators() else { return };
    channel_affine_like_the_cpu(operators);
}

pub fn channel_affine_like_the_cpu(operators: Operators) {
    let mut report = Report::new("cuda/channel_affine");
    let (scale, shift) = (random(&[64], 1), random(&[64], 2));
    for shape in [[0, 64, 4, 4], [2, 64, 20, 25]] {
        for (relu, kind) in [false, true].into_iter().flat_map(|relu| KINDS.map(|kind| (relu, kind))) {
            let case = format!("{shape:?}, relu {relu}");
            let inputs = [("x", random(&shape, 3)), ("residual", random(&shape, 4))];
            for adds in [false, true] {
                let inputs = if adds { &inputs[..] } else { &inputs[..1] };
                let case = format!("{case}, residual {adds}");
                // A frozen norm, and a bias, which has a gradient.
                compare(&mut report, &case, operators, kind, inputs, |operators, t| {
                    let constant = |values: &Tensor| values.to_device(operators.device());
                    let constants = (constant(&scale), constant(&shift));
                    // What it is given is overwritten.
                    operators.channel_affine(&t[0] * 1.0, (Some(&constants.0), &constants.1), t.get(1), relu)
                });
                let with_bias: Vec<(&str, Tensor)> = std::iter::once(("bias", shift.shallow_clone()))
                    .chain(inputs.iter().map(|(name, t)| (*name, t.shallow_clone())))
                    .collect();
                compare(&mut report, &format!("bias, {case}"), operators, kind, &with_bias, |operators, t| {
                    operators.channel_affine(&t[1] * 1.0, (None, &t[0]), t.get(2), relu)
                });
            }
        }
    }
    report.finish();
}
