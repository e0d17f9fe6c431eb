use std::ffi::{c_int, c_void};

use maskrcnn_benchmark::layers::{self, Predictions};
use tch::{Kind, Tensor};

use super::library::{function, in_each_order, STREAM};
use super::memory::Buffer;
use crate::support::{self, random, Report, Tensors};

type MatchByIou = unsafe extern "C" fn(
    *const f32,
    *const i64,
    *const f32,
    *const i64,
    bool,
    i64,
    *mut f32,
    *mut i64,
    *mut bool,
    *mut i32,
    *mut c_void,
) -> c_int;

/// Best IoU, best ground truth, whether a ground truth's maximum is attained.
fn match_by_iou(gt: &Tensor, gt_counts: &[i64], predictions: Predictions) -> Option<[Tensor; 3]> {
    // SAFETY: the type is that of the header.
    let launch: MatchByIou = unsafe { function("mrb_cuda_match_by_iou") }?;
    let (boxes, counts, shared) = match predictions {
        Predictions::OfEach(boxes, counts) => (boxes, counts.to_vec(), false),
        Predictions::Shared(boxes) => (boxes, vec![boxes.size()[0]; gt_counts.len()], true),
    };
    let rows = counts.iter().sum();
    let (g, p) = (Buffer::of(gt), Buffer::of(boxes));
    let mut best_iou = Buffer::unwritten(&[rows], Kind::Float);
    let mut best_gt = Buffer::unwritten(&[rows], Kind::Int64);
    let mut attains = Buffer::unwritten(&[rows], Kind::Bool);
    let mut working = Buffer::unwritten(&[gt.size()[0]], Kind::Int);
    // SAFETY: the buffers have the sizes that the function is told, and there is a count for each image.
    let status = unsafe {
        launch(
            g.pointer(),
            gt_counts.as_ptr(),
            p.pointer(),
            counts.as_ptr(),
            shared,
            gt_counts.len() as i64,
            best_iou.pointer_mut(),
            best_gt.pointer_mut(),
            attains.pointer_mut(),
            working.pointer_mut(),
            STREAM,
        )
    };
    assert_eq!(status, 0, "launch");
    Some([best_iou.tensor(), best_gt.tensor(), attains.tensor()])
}

/// The matrix of overlaps that the original computed.
#[test]
fn golden() {
    in_each_order(|| {
        let Some(folder) = support::area("structures") else { return };
        let tensors = Tensors::read(&folder.join("boxlist_large.safetensors"));
        let (predictions, gt) = (tensors.get("iou_large/a"), tensors.get("iou_large/b"));
        let found = match_by_iou(gt, &[gt.size()[0]], Predictions::Shared(predictions));
        let Some([best_iou, best_gt, attains]) = found else { return };
        let matrix = tensors.get("iou_large/iou");
        let (want_iou, want_gt) = matrix.max_dim(1, false);
        let (gt_maximum, _) = matrix.max_dim(0, true);
        let mut report = Report::new("cuda_emulated/box_matching");
        report.close("iou_large", "best IoU", &best_iou, &want_iou, 0.0, 0.0);
        report.close("iou_large", "best ground truth", &best_gt, &want_gt, 0.0, 0.0);
        let want = matrix.eq_tensor(&gt_maximum).any_dim(1, false);
        report.close("iou_large", "attains the maximum", &attains, &want, 0.0, 0.0);
        report.finish();
    });
}

/// Boxes at whole pixels, so that overlaps are equal often.
fn boxes(count: i64, seed: u64) -> Tensor {
    let sides = ((random(&[count, 2], seed) + 1.0) * 6.0).floor();
    let corner = ((random(&[count, 2], seed + 1) + 1.0) * 10.0).floor();
    Tensor::cat(&[&corner, &(&corner + sides)], 1)
}

#[test]
fn equals_the_cpu_kernel() {
    in_each_order(|| {
        let mut report = Report::new("cuda_emulated/box_matching");
        // More than one block of predictions, more than one tile of ground truth.
        let sizes = [(1, 1), (3, 1000), (256, 257), (257, 255), (600, 700), (5, 0)];
        for (seed, (gt_count, count)) in (1..).step_by(10).zip(sizes) {
            for with_nan in [false, true] {
                let case = format!("{gt_count} with {count}{}", if with_nan { ", nan" } else { "" });
                let (gt, predictions) = (boxes(gt_count, seed), boxes(count, seed + 2));
                if with_nan {
                    let _ = gt.get(gt_count / 2).get(1).fill_(f64::NAN);
                    if count > 0 {
                        let _ = predictions.get(count / 3).get(2).fill_(f64::NAN);
                    }
                }
                compare(&mut report, &case, &gt, &[gt_count], Predictions::Shared(&predictions));
            }
        }
        report.finish();
    });
}

/// Images without objects, without predictions, with more objects than a tile; more images than a launch takes.
#[test]
fn batches_equal_the_cpu_kernel() {
    in_each_order(|| {
        let mut report = Report::new("cuda_emulated/box_matching");
        let many: Vec<(i64, i64)> = (0..130).map(|image| (image % 5 * 3, image % 7 * 11)).collect();
        let batches: [&[(i64, i64)]; 4] =
            [&[], &[(3, 1000), (0, 30), (7, 0), (0, 0), (300, 600)], &[(0, 300), (0, 20)], &many];
        for (seed, batch) in (1..).step_by(10).zip(batches) {
            let (gt_counts, counts): (Vec<i64>, Vec<i64>) = batch.iter().copied().unzip();
            let (gt, predictions) = (boxes(gt_counts.iter().sum(), seed), boxes(counts.iter().sum(), seed + 2));
            let case = format!("{} images", batch.len());
            compare(&mut report, &case, &gt, &gt_counts, Predictions::OfEach(&predictions, &counts));
            for count in [0, 257] {
                let shared = predictions.narrow(0, 0, predictions.size()[0].min(count));
                compare(&mut report, &format!("{case}, shared"), &gt, &gt_counts, Predictions::Shared(&shared));
            }
        }
        report.finish();
    });
}

fn compare(report: &mut Report, case: &str, gt: &Tensor, gt_counts: &[i64], predictions: Predictions) {
    let want = layers::match_by_iou(gt, gt_counts, predictions);
    let Some([best_iou, best_gt, attains]) = match_by_iou(gt, gt_counts, predictions) else { return };
    report.close(case, "best IoU", &best_iou, &want.best_iou, 0.0, 0.0);
    report.close(case, "best ground truth", &best_gt, &want.best_gt, 0.0, 0.0);
    report.close(case, "attains the maximum", &attains, &want.attains_gt_maximum, 0.0, 0.0);
}
