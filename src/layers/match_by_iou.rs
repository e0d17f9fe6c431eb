use tch::Tensor;

use crate::ffi;

/// The predictions for the images of a batch.
#[derive(Clone, Copy, Debug)]
pub enum Predictions<'a> {
    /// Those of all images end to end, `[ΣN, 4]`, and how many are each image's.
    OfEach(&'a Tensor, &'a [i64]),
    /// `[N, 4]`, the same for every image: anchors.
    Shared(&'a Tensor),
}

/// How predictions and ground truth overlap, seen from both sides; the predictions of all images end to end.
pub struct IouMatches {
    /// `[ΣN]`, float: the greatest IoU of each prediction with a ground-truth box of its image.
    pub best_iou: Tensor,
    /// `[ΣN]`, int64: the ground-truth box it is reached with, counted within the image, the first of equals.
    pub best_gt: Tensor,
    /// `[ΣN]`, bool: whether the prediction has the greatest IoU that some ground-truth box reaches (ties included).
    pub attains_gt_maximum: Tensor,
}

/// What matching needs of the matrix of overlaps, without the matrix: memory grows with the number of boxes, not with
/// the number of pairs.
///
/// Values, ties and nan are those of the original's `boxlist_iou` (inclusive corners, float32) followed by `max` along
/// each dimension, for each image. Without ground truth they are -inf, 0 and false.
///
/// On CUDA all images of a batch are matched by the same three launches, however many they are (up to 64).
///
/// # Shapes
/// `gt`: `[ΣG, 4]`, the boxes of all images end to end, `gt_counts` of them each image's; all boxes are x1, y1, x2, y2.
///
/// # Panics
/// On counts that do not fit each other or the boxes.
pub fn match_by_iou(gt: &Tensor, gt_counts: &[i64], predictions: Predictions) -> IouMatches {
    let predictions = match predictions {
        Predictions::OfEach(boxes, counts) => (boxes, Some(counts)),
        Predictions::Shared(boxes) => (boxes, None),
    };
    let found = ffi::match_by_iou((gt, gt_counts), predictions);
    let [best_iou, best_gt, attains_gt_maximum] = found.expect("boxes that fit their counts");
    IouMatches { best_iou, best_gt, attains_gt_maximum }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::Kind;

    use super::*;
    use crate::layers::gradcheck::random;

    /// The whole matrix, by the operations of the original's `boxlist_iou`.
    fn matrix(gt: &Tensor, predictions: &Tensor) -> Tensor {
        let area = |b: &Tensor| (b.select(1, 2) - b.select(1, 0) + 1.0) * (b.select(1, 3) - b.select(1, 1) + 1.0);
        let gt3 = gt.unsqueeze(1);
        let low = gt3.narrow(2, 0, 2).max_other(&predictions.narrow(1, 0, 2));
        let high = gt3.narrow(2, 2, 2).min_other(&predictions.narrow(1, 2, 2));
        let sides = (high - low + 1.0).clamp_min(0.0);
        let inter = sides.select(2, 0) * sides.select(2, 1);
        &inter / (area(gt).unsqueeze(1) + area(predictions) - &inter)
    }

    fn boxes(count: i64, seed: u64) -> Tensor {
        let sides = ((random(&[count, 2], seed) + 1.0) * 6.0).floor();
        let corner = ((random(&[count, 2], seed + 1) + 1.0) * 10.0).floor();
        Tensor::cat(&[&corner, &(&corner + sides)], 1).to_kind(Kind::Float)
    }

    fn check(gt: &Tensor, predictions: &Tensor) {
        let matches = match_by_iou(gt, &[gt.size()[0]], Predictions::Shared(predictions));
        let matrix = matrix(gt, predictions);
        let (best, index) = matrix.max_dim(0, false);
        let (row_maximum, _) = matrix.max_dim(1, true);
        let same = best.eq_tensor(&matches.best_iou).logical_or(&best.isnan().logical_and(&matches.best_iou.isnan()));
        assert!(bool::try_from(same.all()).unwrap(), "values");
        assert!(index == matches.best_gt, "indices");
        assert!(matrix.eq_tensor(&row_maximum).any_dim(0, false) == matches.attains_gt_maximum, "row maxima");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn equals_the_matrix(seed in 0u64..10_000, gt in 1i64..40, predictions in 1i64..3000) {
            check(&boxes(gt, seed), &boxes(predictions, seed + 5));
        }
    }

    #[test]
    fn images_of_a_batch_are_matched_as_alone() {
        // One without objects, one without predictions, one with neither.
        let (gt_counts, counts) = ([3i64, 0, 2, 0, 40], [1500i64, 20, 0, 0, 30]);
        let (gt, predictions) = (boxes(gt_counts.iter().sum(), 1), boxes(counts.iter().sum(), 2));
        let check = |found: IouMatches, predictions: Vec<Tensor>| {
            let lengths: Vec<i64> = predictions.iter().map(|boxes| boxes.size()[0]).collect();
            let split = |tensor: &Tensor| tensor.split_with_sizes(&lengths[..], 0);
            let (iou, index, attains) =
                (split(&found.best_iou), split(&found.best_gt), split(&found.attains_gt_maximum));
            for (image, gt) in gt.split_with_sizes(&gt_counts[..], 0).iter().enumerate() {
                let alone = match_by_iou(gt, &[gt.size()[0]], Predictions::Shared(&predictions[image]));
                assert!(iou[image] == alone.best_iou && index[image] == alone.best_gt, "image {image}");
                assert!(attains[image] == alone.attains_gt_maximum, "image {image}");
                if gt.size()[0] == 0 {
                    let below = iou[image].eq(f64::NEG_INFINITY).logical_and(&index[image].eq(0));
                    assert!(bool::try_from(below.logical_and(&attains[image].logical_not()).all()).unwrap());
                }
            }
        };
        let each = match_by_iou(&gt, &gt_counts, Predictions::OfEach(&predictions, &counts));
        check(each, predictions.split_with_sizes(&counts[..], 0));
        let shared = match_by_iou(&gt, &gt_counts, Predictions::Shared(&predictions));
        check(shared, gt_counts.map(|_| predictions.shallow_clone()).into());
    }

    #[test]
    fn counts_that_do_not_fit_are_errors() {
        let (gt, predictions) = (boxes(3, 1), boxes(5, 2));
        let fail = |gt_counts: &[i64], counts: Option<&[i64]>| {
            ffi::match_by_iou((&gt, gt_counts), (&predictions, counts)).unwrap_err().to_string()
        };
        assert!(fail(&[2], None).contains("2 ground-truth boxes, the tensor has 3"));
        assert!(fail(&[4, -1], None).contains("-1 ground-truth boxes"));
        assert!(fail(&[3], Some(&[4])).contains("4 predictions, the tensor has 5"));
        assert!(fail(&[3], Some(&[4, 1])).contains("1 images, predictions of 2"));
    }

    #[test]
    fn nan_and_degenerate_boxes_are_as_in_the_matrix() {
        let nan = f32::NAN;
        let gt = Tensor::from_slice2(&[[5.0f32, 5.0, 4.0, 4.0], [0.0, 0.0, 9.0, 9.0], [9.0, 9.0, 0.0, 0.0]]);
        let predictions = Tensor::from_slice2(&[
            [5.0f32, 5.0, 4.0, 4.0],
            [0.0, 0.0, 9.0, 9.0],
            [nan, 0.0, 1.0, 1.0],
            [20.0, 20.0, 30.0, 30.0],
            [7.0, 7.0, 2.0, 3.0],
        ]);
        check(&gt, &predictions);
        check(&gt.narrow(0, 1, 2), &predictions);
        check(&gt.narrow(0, 1, 1), &predictions.narrow(0, 3, 1));
    }
}
