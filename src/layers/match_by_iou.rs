use tch::Tensor;

use crate::ffi;

/// How predictions and ground truth overlap, seen from both sides.
pub struct IouMatches {
    /// `[N]`, float: the greatest IoU of each prediction with a ground-truth box.
    pub best_iou: Tensor,
    /// `[N]`, int64: the ground-truth box it is reached with, the first of equals.
    pub best_gt: Tensor,
    /// `[N]`, bool: whether the prediction has the greatest IoU that some ground-truth box reaches (ties included).
    pub attains_gt_maximum: Tensor,
}

/// What matching needs of the matrix of overlaps, without the matrix: memory grows with the number of boxes, not with
/// the number of pairs.
///
/// Values, ties and nan are those of the original's `boxlist_iou` (inclusive corners, float32) followed by `max` along
/// each dimension.
///
/// # Shapes
/// `gt`: `[G, 4]` with G > 0, `predictions`: `[N, 4]`, both x1, y1, x2, y2
pub fn match_by_iou(gt: &Tensor, predictions: &Tensor) -> IouMatches {
    let [best_iou, best_gt, attains_gt_maximum] = ffi::match_by_iou(gt, predictions).expect("match_by_iou");
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
        let matches = match_by_iou(gt, predictions);
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
