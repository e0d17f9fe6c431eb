//! `cargo bench --bench ops`: the operators of `csrc` at the sizes of an FPN detector, on one thread and on two.

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use maskrcnn_benchmark::ffi;
use maskrcnn_benchmark::layers::dcn::{deform_conv, DeformConvGeometry};
use maskrcnn_benchmark::layers::{match_by_iou, nms, roi_align, sigmoid_focal_loss};
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
    let (many, scores) = (boxes(12000), Tensor::rand([12000], FLOAT));
    on_threads(c, "nms 12000 boxes", || drop(nms(&many, &scores, 0.7)));
    let (gt, anchors) = (boxes(100), boxes(217_413));
    on_threads(c, "match_by_iou 100 to 217413", || drop(match_by_iou(&gt, &anchors)));
}

fn losses_and_convolutions(c: &mut Criterion) {
    let logits = Tensor::randn([100_000, 80], FLOAT);
    let targets = Tensor::randint(81, [100_000], (Kind::Int64, Device::Cpu));
    on_threads(c, "sigmoid_focal_loss 100000x80", || drop(sigmoid_focal_loss(&logits, &targets, 2.0, 0.25)));
    let geometry = DeformConvGeometry { padding: (1, 1), ..Default::default() };
    let input = ffi::channels_last(&Tensor::randn([1, 256, 50, 68], FLOAT));
    let (offset, weight) = (Tensor::randn([1, 18, 50, 68], FLOAT), Tensor::randn([256, 256, 3, 3], FLOAT));
    on_threads(c, "deform_conv 256 channels 50x68", || drop(deform_conv(&input, &offset, &weight, geometry)));
}

criterion_group!(benches, pooling, boxes_and_anchors, losses_and_convolutions);
criterion_main!(benches);
