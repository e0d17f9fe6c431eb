//! `cargo bench --bench ops`: the operators of `csrc` at the sizes of an FPN detector, on one thread and on two.

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use maskrcnn_benchmark::ffi;
use maskrcnn_benchmark::layers::dcn::{deform_conv, DeformConvGeometry};
use maskrcnn_benchmark::layers::{match_by_iou, nms, roi_align, sigmoid_focal_loss, Predictions};
use maskrcnn_benchmark::solver::{ParamGroup, Sgd};
use maskrcnn_benchmark::structures::{PolygonCrop, SegmentationMask};
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// `[count, 4]` boxes of 16 to 272 pixels in an image of 800×1088.
fn boxes(count: i64) -> Tensor {
    let corner = Tensor::rand([count, 2], FLOAT) * Tensor::from_slice(&[816.0f32, 528.0]);
    let size = Tensor::rand([count, 2], FLOAT) * 256.0 + 16.0;
    Tensor::cat(&[&corner, &(&corner + size)], 1)
}

/// Runs `f` on one thread and on two.
fn on_threads(c: &mut Criterion, name: &str, mut f: impl FnMut()) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    for threads in [1, 2] {
        tch::set_num_threads(threads);
        group.bench_function(BenchmarkId::from_parameter(format!("{threads} threads")), |b| b.iter(&mut f));
    }
    group.finish();
}

fn pooling(c: &mut Criterion) {
    tch::manual_seed(1);
    let features = Tensor::randn([1, 256, 200, 272], FLOAT);
    let channels_last = ffi::channels_last(&features);
    let rois = Tensor::cat(&[Tensor::zeros([1000, 1], FLOAT), boxes(1000)], 1);
    on_threads(c, "roi_align 1000 rois 7x7", || drop(roi_align(&channels_last, &rois, (7, 7), 0.25, 2)));
    on_threads(c, "roi_align 1000 rois 7x7 nchw", || drop(roi_align(&features, &rois, (7, 7), 0.25, 2)));
    let rois = rois.narrow(0, 0, 512);
    on_threads(c, "roi_align 512 rois forward and backward", || {
        let input = features.detach().set_requires_grad(true);
        roi_align(&input, &rois, (7, 7), 0.25, 2).sum(Kind::Float).backward();
    });
}

fn boxes_and_anchors(c: &mut Criterion) {
    tch::manual_seed(1);
    let (many, scores) = (boxes(12000), Tensor::rand([12000], FLOAT));
    on_threads(c, "nms 12000 boxes", || drop(nms(&many, &scores, 0.7)));
    let (gt, anchors) = (boxes(100), boxes(217_413));
    on_threads(c, "match_by_iou 100 to 217413", || drop(match_by_iou(&gt, &[100], Predictions::Shared(&anchors))));
}

/// The mask targets of 128 boxes, each of an outline of 40 points that it holds, on as many threads as they are worth.
fn mask_targets(c: &mut Criterion) {
    tch::manual_seed(1);
    let boxes = boxes(128);
    let outlines = Vec::<f32>::try_from(boxes.flatten(0, -1)).expect("numbers");
    let outline = |corners: &[f32]| {
        let point = |i: i32| {
            let (angle, radius) = (f64::from(i) * std::f64::consts::TAU / 40.0, 0.35 + 0.15 * f64::from(i % 3 - 1));
            let side = |near: f32, far: f32, part: f64| f64::from(near) + f64::from(far - near) * (0.5 + radius * part);
            [side(corners[0], corners[2], angle.cos()), side(corners[1], corners[3], angle.sin())]
        };
        vec![(0..40).flat_map(point).collect()]
    };
    let masks = SegmentationMask::from_polygons(outlines.chunks_exact(4).map(outline).collect(), (1088, 800));
    for number in [1, 32, 128] {
        let index = Tensor::arange(number, (Kind::Int64, Device::Cpu));
        let (masks, boxes) = (masks.select(&index).expect("masks"), boxes.narrow(0, 0, number));
        c.bench_function(&format!("mask targets of {number} polygons, 28x28"), |b| {
            b.iter(|| masks.crop_and_resize(&boxes, (28, 28), PolygonCrop::Clamped))
        });
    }
}

fn losses_and_convolutions(c: &mut Criterion) {
    tch::manual_seed(1);
    let logits = Tensor::randn([100_000, 80], FLOAT);
    let targets = Tensor::randint(81, [100_000], (Kind::Int64, Device::Cpu));
    on_threads(c, "sigmoid_focal_loss 100000x80", || drop(sigmoid_focal_loss(&logits, &targets, 2.0, 0.25)));
    let geometry = DeformConvGeometry { padding: (1, 1), ..Default::default() };
    let input = ffi::channels_last(&Tensor::randn([1, 256, 50, 68], FLOAT));
    let (offset, weight) = (Tensor::randn([1, 18, 50, 68], FLOAT), Tensor::randn([256, 256, 3, 3], FLOAT));
    on_threads(c, "deform_conv 256 channels 50x68", || drop(deform_conv(&input, &offset, &weight, geometry)));
}

/// A step over 44 million parameters in 160 tensors, as many as Mask R-CNN R-50-FPN has: in one call, and by the
/// operators of torch.optim.SGD one after the other.
fn solver(c: &mut Criterion) {
    tch::manual_seed(1);
    let weights: Vec<Tensor> =
        (0..160).map(|_| Tensor::randn([256, 120, 3, 3], FLOAT).set_requires_grad(true)).collect();
    Tensor::stack(&weights.iter().map(|w| w.sum(Kind::Float)).collect::<Vec<_>>(), 0).sum(Kind::Float).backward();
    let group = |(i, w): (usize, &Tensor)| ParamGroup {
        name: i.to_string(),
        tensor: w.shallow_clone(),
        lr: 1e-4,
        initial_lr: 1e-4,
        weight_decay: 1e-4,
    };
    let mut optimizer = Sgd::new(weights.iter().enumerate().map(group).collect(), 0.9);
    on_threads(c, "sgd 44 million in one call", || optimizer.step());

    let _no_grad = tch::no_grad_guard();
    let mut momentum: Vec<Tensor> = weights.iter().map(Tensor::zeros_like).collect();
    let (decay, rate) = (Tensor::from(1e-4f32), Tensor::from(-1e-4f32));
    on_threads(c, "sgd 44 million by operators", || {
        for (weight, momentum) in weights.iter().zip(&mut momentum) {
            let decayed = weight.grad().addcmul(weight, &decay);
            let update = momentum.g_mul_scalar_(0.9).g_add_(&decayed);
            let _ = weight.shallow_clone().addcmul_(&update, &rate);
        }
    });
}

criterion_group!(benches, pooling, boxes_and_anchors, mask_targets, losses_and_convolutions, solver);
criterion_main!(benches);
