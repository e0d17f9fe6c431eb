//! Assigns predictions (anchors or proposals) to ground-truth boxes by their overlap.

use anyhow::{ensure, Result};
use tch::{Kind, Tensor};

use crate::layers::{match_by_iou, IouMatches};
use crate::structures::BoxList;

use super::batch::Rows;
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
    /// Memory does not grow with the product of the numbers: the overlaps are never stored. (The original holds the whole
    /// matrix: several GB for a thousand objects on a large image.)
    ///
    /// # Shapes
    /// `targets` `[M, 4]`, `predictions` `[N, 4]` (both xyxy) → `[N]` int64: index of the ground truth, or one of the
    /// two constants.
    pub fn match_boxes(&self, targets: &Tensor, predictions: &Tensor) -> Tensor {
        self.match_batch([(targets, predictions)])
    }

    /// [`match_boxes`](Self::match_boxes) of the targets and predictions of each image of a batch, end to end.
    pub fn match_batch<'a>(&self, images: impl IntoIterator<Item = (&'a Tensor, &'a Tensor)>) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let (mut best_iou, mut best_gt, mut attains_gt_maximum) = (Vec::new(), Vec::new(), Vec::new());
        for (targets, predictions) in images {
            let found = if targets.size()[0] == 0 || predictions.size()[0] == 0 {
                // Below every threshold.
                let fill =
                    |value: f64, kind| Tensor::full(&predictions.size()[..1], value, (kind, predictions.device()));
                IouMatches {
                    best_iou: fill(f64::NEG_INFINITY, Kind::Float),
                    best_gt: fill(0.0, Kind::Int64),
                    attains_gt_maximum: fill(0.0, Kind::Bool),
                }
            } else {
                match_by_iou(targets, predictions)
            };
            best_iou.push(found.best_iou);
            best_gt.push(found.best_gt);
            attains_gt_maximum.push(found.attains_gt_maximum);
        }
        let (best_iou, best_gt) = (cat(&best_iou, 0), cat(&best_gt, 0));
        self.assign(&IouMatches { best_iou, best_gt, attains_gt_maximum: cat(&attains_gt_maximum, 0) })
    }

    /// Matches the boxes of each image to its ground truth, and gives each the class of its match: 0 is background, -1 is
    /// between the thresholds.
    ///
    /// # Shapes
    /// `boxes` `[N, 4]` (xyxy) for each image.
    ///
    /// # Errors
    /// Ground truth without the field `labels`.
    pub fn match_classes(&self, targets: &[BoxList], boxes: &[&Tensor]) -> Result<Vec<MatchedTargets>> {
        let Some(device) = boxes.first().map(|boxes| boxes.device()) else { return Ok(Vec::new()) };
        let truth: Vec<Tensor> = targets.iter().map(|target| target.bbox().to_device(device)).collect();
        let matched_idxs = self.match_batch(truth.iter().zip(boxes.iter().copied()));
        let classes = targets.iter().filter(|target| !target.is_empty());
        let classes = classes.map(|target| Ok(target.tensor_field("labels")?.to_device(device).to_kind(Kind::Int64)));
        let classes = classes.collect::<Result<Vec<_>>>()?;
        let rows = Rows::new(boxes.iter().map(|boxes| boxes.size()[0]));
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

    /// Matches by a given quality matrix.
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
