//! Assigns predictions (anchors or proposals) to ground-truth boxes by their overlap.

use anyhow::{ensure, Result};
use tch::{Kind, Tensor};

use crate::layers::{match_by_iou, IouMatches, Predictions};
use crate::structures::BoxList;

use super::batch::{all_boxes, Rows};
use super::utils::cat;

/// Matches each prediction to at most one ground-truth box (Faster R-CNN, section 3.1.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Matcher {
    high_threshold: f64,
    low_threshold: f64,
    allow_low_quality_matches: bool,
}

/// What the boxes of one image (anchors or proposals) are to learn.
#[derive(Debug)]
pub struct MatchedTargets {
    /// `[N]` int64: above 0 object (the class, where classes are told apart), 0 background, -1 ignored.
    pub labels: Tensor,
    /// `[N]` int64: the matched ground truth, or the matcher's negative values.
    pub matched_idxs: Tensor,
}

impl MatchedTargets {
    /// The labels or the matches of all images, end to end.
    pub(super) fn all(prepared: &[Self], part: fn(&Self) -> &Tensor) -> Tensor {
        cat(&prepared.iter().map(|prepared| part(prepared).shallow_clone()).collect::<Vec<_>>(), 0)
    }
}

impl Matcher {
    /// The match of a prediction whose best quality is below the low threshold: background.
    pub const BELOW_LOW_THRESHOLD: i64 = -1;
    /// The match of a prediction whose best quality lies between the thresholds: to be ignored.
    pub const BETWEEN_THRESHOLDS: i64 = -2;

    /// With `allow_low_quality_matches`, every prediction that is some ground truth's best (ties included) keeps *its
    /// own* best ground truth even below the thresholds, as the original does.
    ///
    /// # Errors
    /// A low threshold above the high one.
    pub fn new(high_threshold: f64, low_threshold: f64, allow_low_quality_matches: bool) -> Result<Self> {
        ensure!(
            low_threshold <= high_threshold,
            "the background IoU threshold {low_threshold} is above the foreground IoU threshold {high_threshold}"
        );
        Ok(Self { high_threshold, low_threshold, allow_low_quality_matches })
    }

    /// Matches predictions to ground truth by IoU. Without ground truth everything is background.
    ///
    /// Memory does not grow with the product of the numbers: the overlaps are never stored. (The original holds the
    /// whole matrix: several GB for a thousand objects on a large image.)
    ///
    /// # Shapes
    /// `targets` `[M, 4]`, `predictions` `[N, 4]` (both xyxy) → `[N]` int64: index of the ground truth, or one of the
    /// two constants.
    pub fn match_boxes(&self, targets: &Tensor, predictions: &Tensor) -> Tensor {
        self.match_batch(targets, &Rows::new([targets.size()[0]]), Predictions::Shared(predictions))
    }

    /// [`match_boxes`](Self::match_boxes) for each image of a batch.
    ///
    /// # Shapes
    /// `targets` `[ΣM, 4]` of all images end to end, `objects` of them each image's → `[ΣN]` int64, counted within the
    /// image.
    pub fn match_batch(&self, targets: &Tensor, objects: &Rows, predictions: Predictions) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        self.assign(&match_by_iou(targets, objects.lengths(), predictions))
    }

    /// Matches boxes to the ground truth of each image, and gives each the class of its match: 0 is background, -1 is
    /// between the thresholds.
    ///
    /// # Errors
    /// Ground truth without the field `labels`.
    pub fn match_classes(&self, targets: &[BoxList], boxes: Predictions) -> Result<Vec<MatchedTargets>> {
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let (device, rows) = match boxes {
            Predictions::OfEach(boxes, counts) => (boxes.device(), Rows::new(counts.iter().copied())),
            Predictions::Shared(boxes) => (boxes.device(), Rows::new(targets.iter().map(|_| boxes.size()[0]))),
        };
        let truth = all_boxes(targets).to_device(device);
        let matched_idxs = self.match_batch(&truth, &Rows::of_boxes(targets), boxes);
        let classes = targets.iter().filter(|target| !target.is_empty());
        let classes = classes.map(|target| Ok(target.tensor_field("labels")?.to_device(device).to_kind(Kind::Int64)));
        let classes = classes.collect::<Result<Vec<_>>>()?;
        let labels = if classes.is_empty() {
            matched_idxs.zeros_like()
        } else {
            let places = rows_of_truth(&matched_idxs, &rows, targets);
            cat(&classes, 0)
                .index_select(0, &places)
                .masked_fill(&matched_idxs.eq(Self::BELOW_LOW_THRESHOLD), 0)
                .masked_fill(&matched_idxs.eq(Self::BETWEEN_THRESHOLDS), -1)
        };
        let per_image = rows.split(&labels).into_iter().zip(rows.split(&matched_idxs));
        Ok(per_image.map(|(labels, matched_idxs)| MatchedTargets { labels, matched_idxs }).collect())
    }

    /// Matches by a given quality matrix, as the original's `Matcher` does. The models use
    /// [`match_batch`](Self::match_batch), which needs no such matrix; this is what it is tested against, and for other
    /// qualities than the IoU.
    ///
    /// # Shapes
    /// `quality` `[M, N]`, neither 0 → `[N]` int64, as in [`match_boxes`](Self::match_boxes).
    pub fn match_quality(&self, quality: &Tensor) -> Tensor {
        let (best_iou, best_gt) = quality.max_dim(0, false);
        let highest = quality.max_dim(1, true).0;
        let attains_gt_maximum = quality.eq_tensor(&highest).any_dim(0, false);
        self.assign(&IouMatches { best_iou, best_gt, attains_gt_maximum })
    }

    fn assign(&self, found: &IouMatches) -> Tensor {
        let IouMatches { best_iou, best_gt, attains_gt_maximum } = found;
        let below = best_iou.lt(self.low_threshold);
        let between = best_iou.ge(self.low_threshold).logical_and(&best_iou.lt(self.high_threshold));
        let matches =
            best_gt.masked_fill(&below, Self::BELOW_LOW_THRESHOLD).masked_fill(&between, Self::BETWEEN_THRESHOLDS);
        if self.allow_low_quality_matches {
            best_gt.where_self(attains_gt_maximum, &matches)
        } else {
            matches
        }
    }
}

/// Where the matched objects lie among those of all images, laid end to end; some object for what matched none.
///
/// # Shapes
/// `matched_idxs` `[rows.total()]` int64 → the same. There is at least one object, or no row.
pub(super) fn rows_of_truth(matched_idxs: &Tensor, rows: &Rows, targets: &[BoxList]) -> Tensor {
    let objects = Rows::of_boxes(targets);
    rows.shift(&matched_idxs.clamp_min(0), &objects.starts()).clamp_max(objects.total() - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::Device;

    use super::*;
    use crate::structures::{boxlist_iou, Mode};

    fn boxes(values: &[[f32; 4]]) -> Tensor {
        let flat: Vec<f32> = values.iter().flat_map(|v| [v[0], v[1], v[0] + v[2], v[1] + v[3]]).collect();
        Tensor::from_slice(&flat).reshape([-1, 4])
    }

    proptest! {
        // Whole numbers, so that ties happen.
        #[test]
        fn the_kernel_and_the_whole_matrix_agree(
            targets in prop::collection::vec(prop::array::uniform4(0_u8..12), 1..6),
            predictions in prop::collection::vec(prop::array::uniform4(0_u8..12), 1..40),
            low_quality: bool,
        ) {
            let float = |v: &[[u8; 4]]| boxes(&v.iter().map(|b| b.map(f32::from)).collect::<Vec<_>>());
            let (targets, predictions) = (float(&targets), float(&predictions));
            let matcher = Matcher::new(0.7, 0.3, low_quality).unwrap();
            let list = |boxes: &Tensor| BoxList::new(boxes.shallow_clone(), (24, 24), Mode::Xyxy).unwrap();
            let whole = matcher.match_quality(&boxlist_iou(&list(&targets), &list(&predictions)).unwrap());
            prop_assert!(matcher.match_boxes(&targets, &predictions) == whole);
        }
    }

    #[test]
    fn without_ground_truth_everything_is_background() {
        let none = Tensor::zeros([0, 4], (Kind::Float, Device::Cpu));
        let matcher = Matcher::new(0.7, 0.3, true).unwrap();
        let matches = matcher.match_boxes(&none, &boxes(&[[0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 3.0, 3.0]]));
        assert_eq!(Vec::<i64>::try_from(matches).unwrap(), [-1, -1]);
        assert_eq!(matcher.match_boxes(&none, &none).size(), [0]);
    }

    #[test]
    fn crossed_thresholds_are_an_error() {
        let message = Matcher::new(0.3, 0.5, false).unwrap_err().to_string();
        assert!(message.contains("0.5") && message.contains("0.3"), "{message}");
    }
}
