//! The operators of `csrc/ops`. Shapes and meaning are documented at the functions of [`crate::layers`] over them.

use anyhow::Result;
use tch::Tensor;

use super::{call_for_tensor, raw};

/// See [`crate::layers::roi_align`].
///
/// # Errors
/// On tensors of another shape, type or device, and on a RoI whose batch index does not exist.
pub fn roi_align(
    input: &Tensor,
    rois: &Tensor,
    (pooled_height, pooled_width): (i64, i64),
    spatial_scale: f64,
    sampling_ratio: i64,
) -> Result<Tensor> {
    let (input, rois) = (input.as_ptr(), rois.as_ptr());
    // SAFETY: the handles come from live borrowed tensors, the error and output from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe {
        raw::mrb_roi_align(error, output, input, rois, pooled_height, pooled_width, spatial_scale, sampling_ratio)
    })
}

/// See [`crate::layers::nms_with_rule`].
///
/// # Errors
/// On tensors of another shape, type or device.
pub fn nms(boxes: &Tensor, scores: &Tensor, threshold: f64, suppress_at_threshold: bool) -> Result<Tensor> {
    let (boxes, scores) = (boxes.as_ptr(), scores.as_ptr());
    // SAFETY: the handles come from live borrowed tensors, the error and output from `call_for_tensor`.
    call_for_tensor(|error, keep| unsafe { raw::mrb_nms(error, keep, boxes, scores, threshold, suppress_at_threshold) })
}
