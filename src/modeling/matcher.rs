//! Assigns predictions (anchors or proposals) to ground-truth boxes by their overlap.

use anyhow::{ensure, Result};
use tch::{Device, Kind, Tensor};

use crate::layers::{match_by_iou, IouMatches};
use crate::structures::BoxList;

/// The largest number of values of a ground-truth-by-prediction matrix that is held at once where there is no kernel
/// that does without it. The original holds the whole matrix: several GB for a thousand objects on a large image.
const CHUNK_VALUES: i64 = 1 << 20;

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
    /// Memory does not grow with the product of the numbers: on the CPU the overlaps are never stored, on other devices
    /// they are computed over some predictions at a time.
    ///
    /// # Shapes
    /// `targets` `[M, 4]`, `predictions` `[N, 4]` (both xyxy) → `[N]` int64: index of the ground truth, or one of the
    /// two constants.
    pub fn match_boxes(&self, targets: &Tensor, predictions: &Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        if targets.size()[0] == 0 || predictions.size()[0] == 0 {
            let options = (Kind::Int64, predictions.device());
            return Tensor::full([predictions.size()[0]], Self::BELOW_LOW_THRESHOLD, options);
        }
        self.assign(&match predictions.device() {
            Device::Cpu => match_by_iou(targets, predictions),
            _ => match_in_chunks(targets, predictions, CHUNK_VALUES),
        })
    }

    /// Matches boxes to the ground truth of their image, and gives each the class of its match: 0 is background, -1 is
    /// between the thresholds.
    ///
    /// # Shapes
    /// `boxes` `[N, 4]` (xyxy).
    ///
    /// # Errors
    /// Ground truth without the field `labels`.
    pub fn match_classes(&self, target: &BoxList, boxes: &Tensor) -> Result<MatchedTargets> {
        let device = boxes.device();
        let matched_idxs = self.match_boxes(&target.bbox().to_device(device), boxes);
        let labels = if target.is_empty() {
            matched_idxs.zeros_like()
        } else {
            let classes = target.tensor_field("labels")?.to_device(device).to_kind(Kind::Int64);
            classes
                .index_select(0, &matched_idxs.clamp_min(0))
                .masked_fill(&matched_idxs.eq(Self::BELOW_LOW_THRESHOLD), 0)
                .masked_fill(&matched_idxs.eq(Self::BETWEEN_THRESHOLDS), -1)
        };
        Ok(MatchedTargets { labels, matched_idxs })
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

/// What [`match_by_iou`] gives, by plain tensor operations over chunks of predictions.
fn match_in_chunks(targets: &Tensor, predictions: &Tensor, chunk_values: i64) -> IouMatches {
    let (number, total) = (targets.size()[0], predictions.size()[0]);
    let (targets, predictions) = (Corners::of(targets), Corners::of(predictions));
    let chunk = (chunk_values / number).max(1);
    let parts: Vec<Corners> =
        (0..total).step_by(chunk as usize).map(|start| predictions.narrow(start, chunk.min(total - start))).collect();
    let mut highest: Option<Tensor> = None;
    let mut best = Vec::with_capacity(parts.len());
    for part in &parts {
        let overlap = targets.iou(part);
        best.push(overlap.max_dim(0, false));
        let of_chunk = overlap.max_dim(1, true).0;
        highest = Some(match highest {
            Some(so_far) => so_far.maximum(&of_chunk),
            None => of_chunk,
        });
    }
    let highest = highest.expect("there is a prediction");
    // The overlaps are computed a second time instead of being kept.
    let attains: Vec<Tensor> =
        parts.iter().map(|part| targets.iou(part).eq_tensor(&highest).any_dim(0, false)).collect();
    let (best_iou, best_gt): (Vec<Tensor>, Vec<Tensor>) = best.into_iter().unzip();
    IouMatches {
        best_iou: Tensor::cat(&best_iou, 0),
        best_gt: Tensor::cat(&best_gt, 0),
        attains_gt_maximum: Tensor::cat(&attains, 0),
    }
}

/// The corners of boxes as separate contiguous columns `[N]`, with their areas.
struct Corners {
    x1: Tensor,
    y1: Tensor,
    x2: Tensor,
    y2: Tensor,
    area: Tensor,
}

impl Corners {
    fn of(boxes: &Tensor) -> Self {
        let columns = boxes.transpose(0, 1).contiguous().unbind(0);
        let [x1, y1, x2, y2]: [Tensor; 4] = columns.try_into().expect("boxes have four columns");
        let area = (&x2 - &x1 + 1.0) * (&y2 - &y1 + 1.0);
        Self { x1, y1, x2, y2, area }
    }

    fn narrow(&self, start: i64, length: i64) -> Self {
        let part = |t: &Tensor| t.narrow(0, start, length);
        Self { x1: part(&self.x1), y1: part(&self.y1), x2: part(&self.x2), y2: part(&self.y2), area: part(&self.area) }
    }

    /// The overlaps `[M, N]` with `other`, by the formula (and in the order of operations) of `boxlist_iou`.
    fn iou(&self, other: &Corners) -> Tensor {
        let row = |t: &Tensor| t.unsqueeze(1);
        let side = |low: (&Tensor, &Tensor), high: (&Tensor, &Tensor)| {
            let mut side = row(high.0).minimum(high.1);
            side -= row(low.0).maximum(low.1);
            side += 1.0;
            side.clamp_min_(0.0)
        };
        let mut inter = side((&self.x1, &other.x1), (&self.x2, &other.x2));
        inter *= side((&self.y1, &other.y1), (&self.y2, &other.y2));
        let union = row(&self.area) + &other.area - &inter;
        inter / union
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boxes(values: &[[f32; 4]]) -> Tensor {
        let flat: Vec<f32> = values.iter().flat_map(|v| [v[0], v[1], v[0] + v[2], v[1] + v[3]]).collect();
        Tensor::from_slice(&flat).reshape([-1, 4])
    }

    proptest! {
        // Whole numbers, so that ties happen.
        #[test]
        fn the_kernel_and_any_cut_into_chunks_agree(
            targets in prop::collection::vec(prop::array::uniform4(0_u8..12), 1..6),
            predictions in prop::collection::vec(prop::array::uniform4(0_u8..12), 1..40),
            chunk_values in 1_i64..100,
            low_quality: bool,
        ) {
            let float = |v: &[[u8; 4]]| boxes(&v.iter().map(|b| b.map(f32::from)).collect::<Vec<_>>());
            let (targets, predictions) = (float(&targets), float(&predictions));
            let matcher = Matcher::new(0.7, 0.3, low_quality).unwrap();
            let whole = matcher.match_boxes(&targets, &predictions);
            let cut = matcher.assign(&match_in_chunks(&targets, &predictions, chunk_values));
            prop_assert_eq!(Vec::<i64>::try_from(&whole).unwrap(), Vec::<i64>::try_from(&cut).unwrap());
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
