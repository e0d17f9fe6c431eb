//! Assigns predictions (anchors or proposals) to ground-truth boxes by their overlap.

use anyhow::{ensure, Result};
use tch::{Device, Kind, Tensor};

/// The largest number of values of a ground-truth-by-prediction matrix that is held at once. The original holds the
/// whole matrix: several GB for a thousand objects on a large image.
const CHUNK_VALUES: i64 = 1 << 20;

/// Matches each prediction to at most one ground-truth box (Faster R-CNN, section 3.1.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Matcher {
    high_threshold: f64,
    low_threshold: f64,
    allow_low_quality_matches: bool,
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
    /// The overlaps are computed over some predictions at a time, so memory does not grow with the product of the
    /// numbers; the result does not depend on the cut.
    ///
    /// # Shapes
    /// `targets` `[M, 4]`, `predictions` `[N, 4]` (both xyxy) → `[N]` int64: index of the ground truth, or one of the
    /// two constants.
    pub fn match_boxes(&self, targets: &Tensor, predictions: &Tensor) -> Tensor {
        self.match_in_chunks(targets, predictions, CHUNK_VALUES)
    }

    fn match_in_chunks(&self, targets: &Tensor, predictions: &Tensor, chunk_values: i64) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let number = targets.size()[0];
        let (targets, predictions) = (Corners::of(targets), Corners::of(predictions));
        let chunk = (chunk_values / number.max(1)).max(1);
        self.matches(number, predictions.len(), chunk, targets.device(), |start, length| {
            targets.iou(&predictions.narrow(start, length))
        })
    }

    /// Matches by a given quality matrix.
    ///
    /// # Shapes
    /// `quality` `[M, N]` → `[N]` int64, as in [`match_boxes`](Self::match_boxes).
    pub fn match_quality(&self, quality: &Tensor) -> Tensor {
        let (number, predictions) = (quality.size()[0], quality.size()[1]);
        let chunk = predictions.max(1);
        self.matches(number, predictions, chunk, quality.device(), |start, length| quality.narrow(1, start, length))
    }

    /// `quality(start, length)` gives the columns of the quality matrix for a range of predictions.
    fn matches(
        &self,
        targets: i64,
        predictions: i64,
        chunk: i64,
        device: Device,
        quality: impl Fn(i64, i64) -> Tensor,
    ) -> Tensor {
        if targets == 0 || predictions == 0 {
            return Tensor::full([predictions], Self::BELOW_LOW_THRESHOLD, (Kind::Int64, device));
        }
        let ranges: Vec<(i64, i64)> =
            (0..predictions).step_by(chunk as usize).map(|start| (start, chunk.min(predictions - start))).collect();
        // With a single chunk the second pass reuses the matrix instead of computing it again.
        let mut only_chunk = None;
        let mut best_per_target: Option<Tensor> = None;
        let mut best = Vec::with_capacity(ranges.len());
        for &(start, length) in &ranges {
            let matrix = quality(start, length);
            best.push(matrix.max_dim(0, false));
            if self.allow_low_quality_matches {
                let highest = matrix.max_dim(1, false).0;
                best_per_target = Some(match best_per_target {
                    Some(so_far) => so_far.maximum(&highest),
                    None => highest,
                });
            }
            if ranges.len() == 1 {
                only_chunk = Some(matrix);
            }
        }
        let parts: Vec<Tensor> = ranges
            .iter()
            .zip(&best)
            .map(|(&(start, length), (values, own_best))| {
                let mut matches =
                    own_best.masked_fill(&values.lt(self.low_threshold), Self::BELOW_LOW_THRESHOLD).masked_fill(
                        &values.ge(self.low_threshold).logical_and(&values.lt(self.high_threshold)),
                        Self::BETWEEN_THRESHOLDS,
                    );
                if let Some(highest) = &best_per_target {
                    let matrix = match &only_chunk {
                        Some(matrix) => matrix.shallow_clone(),
                        None => quality(start, length),
                    };
                    let is_highest = matrix.eq_tensor(&highest.unsqueeze(1)).any_dim(0, false);
                    matches = own_best.where_self(&is_highest, &matches);
                }
                matches
            })
            .collect();
        Tensor::cat(&parts, 0)
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

    fn len(&self) -> i64 {
        self.x1.size()[0]
    }

    fn device(&self) -> Device {
        self.x1.device()
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
        fn the_cut_into_chunks_changes_nothing(
            targets in prop::collection::vec(prop::array::uniform4(0_u8..12), 1..6),
            predictions in prop::collection::vec(prop::array::uniform4(0_u8..12), 1..40),
            chunk_values in 1_i64..100,
            low_quality: bool,
        ) {
            let float = |v: &[[u8; 4]]| boxes(&v.iter().map(|b| b.map(f32::from)).collect::<Vec<_>>());
            let (targets, predictions) = (float(&targets), float(&predictions));
            let matcher = Matcher::new(0.7, 0.3, low_quality).unwrap();
            let whole = matcher.match_boxes(&targets, &predictions);
            let cut = matcher.match_in_chunks(&targets, &predictions, chunk_values);
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
