use tch::Tensor;

use crate::ffi;

/// Which overlap suppresses: the original's two kernels differ at exact equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuppressionRule {
    /// IoU >= threshold, as in the original's CPU kernel.
    AtLeast,
    /// IoU > threshold, as in the original's CUDA kernel.
    Above,
}

/// Greedy non-maximum suppression with the rule of the original's CPU kernel (`csrc/cpu/nms_cpu.cpp`).
///
/// Corners are inclusive: widths, heights and overlaps count one pixel more than the difference. Boxes of equal score
/// are taken in input order. The kept indices come back in ascending order, *not* by score.
///
/// # Shapes
/// - `boxes`: `[N, 4]`: x1, y1, x2, y2; `scores`: `[N]`
/// - output: `[K]`, int64
pub fn nms(boxes: &Tensor, scores: &Tensor, threshold: f64) -> Tensor {
    nms_with_rule(boxes, scores, threshold, SuppressionRule::AtLeast)
}

/// [`nms`] with the choice of what happens at exactly the threshold.
pub fn nms_with_rule(boxes: &Tensor, scores: &Tensor, threshold: f64, rule: SuppressionRule) -> Tensor {
    ffi::nms(boxes, scores, threshold, rule == SuppressionRule::AtLeast).expect("nms")
}
