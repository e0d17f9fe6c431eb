//! The operators of `csrc/ops`. Shapes and meaning are documented at the functions of [`crate::layers`] over them.
//!
//! All of them fail on tensors of a wrong shape, type or device.

use anyhow::{ensure, Result};
use tch::Tensor;
use torch_sys::C_tensor;

use super::{call_for_tensor, call_for_tensors, optional, raw, DeformConvGeometry, DeformRoiPoolGeometry};

/// See [`crate::layers::multi_scale_roi_align`]; without `levels` there is one map. A RoI of an image that is not in
/// the batch is an error on the CPU.
///
/// # Errors
/// Maps, RoIs or levels whose shapes do not fit each other, another number of scales than of maps, or an output size
/// that is not positive.
pub fn roi_align(
    inputs: &[Tensor],
    spatial_scales: &[f64],
    rois: &Tensor,
    levels: Option<&Tensor>,
    (pooled_height, pooled_width): (i64, i64),
    sampling_ratio: i64,
) -> Result<Tensor> {
    let (maps, scales) = (inputs.len(), spatial_scales.len());
    ensure!(maps == scales, "roi_align: {maps} maps and {scales} scales");
    let handles: Vec<*const C_tensor> = inputs.iter().map(|input| input.as_ptr()).collect();
    let (inputs, scales, maps) = (handles.as_ptr(), spatial_scales.as_ptr(), maps as i64);
    let (rois, levels) = (rois.as_ptr(), optional(levels));
    // SAFETY: the handles come from live borrowed tensors, the error and output from `call_for_tensor`; the lists have
    // as many entries as is said.
    call_for_tensor(|error, output| unsafe {
        let (height, width) = (pooled_height, pooled_width);
        raw::mrb_roi_align(error, output, inputs, scales, maps, rois, levels, height, width, sampling_ratio)
    })
}

/// See [`crate::layers::roi_pool`]. A RoI of an image that is not in the batch is an error on the CPU.
///
/// # Errors
/// Shapes other than `[N, C, H, W]` and `[R, 5]`, or an output size that is not positive.
pub fn roi_pool(
    input: &Tensor,
    rois: &Tensor,
    (pooled_height, pooled_width): (i64, i64),
    spatial_scale: f64,
) -> Result<Tensor> {
    let (input, rois) = (input.as_ptr(), rois.as_ptr());
    // SAFETY: the handles come from live borrowed tensors, the error and output from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe {
        raw::mrb_roi_pool(error, output, input, rois, pooled_height, pooled_width, spatial_scale)
    })
}

/// See [`crate::layers::nms_with_rule`].
///
/// # Errors
/// Boxes that are not `[N, 4]`, or scores that are not `[N]`.
pub fn nms(boxes: &Tensor, scores: &Tensor, threshold: f64, suppress_at_threshold: bool) -> Result<Tensor> {
    let (boxes, scores) = (boxes.as_ptr(), scores.as_ptr());
    // SAFETY: the handles come from live borrowed tensors, the error and output from `call_for_tensor`.
    call_for_tensor(|error, keep| unsafe { raw::mrb_nms(error, keep, boxes, scores, threshold, suppress_at_threshold) })
}

/// See [`crate::layers::nms_mask`].
///
/// # Errors
/// As [`nms`]; groups that are not `[N]` int64; on the CPU also numbers of groups or of boxes beyond those given.
pub fn nms_mask(
    boxes: &Tensor,
    scores: &Tensor,
    groups: &Tensor,
    group_count: i64,
    largest_group: i64,
    threshold: f64,
    suppress_at_threshold: bool,
) -> Result<Tensor> {
    let (boxes, scores, groups) = (boxes.as_ptr(), scores.as_ptr(), groups.as_ptr());
    let at_threshold = suppress_at_threshold;
    // SAFETY: the handles come from live borrowed tensors, the error and output from `call_for_tensor`.
    call_for_tensor(|error, keep| unsafe {
        raw::mrb_nms_mask(error, keep, boxes, scores, groups, group_count, largest_group, threshold, at_threshold)
    })
}

/// See [`crate::layers::match_by_iou`]: best IoU, best ground truth, whether a ground truth's maximum is attained.
///
/// # Errors
/// Counts that do not fit each other or the tensors.
pub fn match_by_iou(
    (gt, gt_counts): (&Tensor, &[i64]),
    (predictions, prediction_counts): (&Tensor, Option<&[i64]>),
) -> Result<[Tensor; 3]> {
    let images = gt_counts.len();
    let counted = prediction_counts.map_or(images, <[i64]>::len);
    ensure!(counted == images, "ground truth of {images} images, predictions of {counted}");
    let (gt, predictions) = (gt.as_ptr(), predictions.as_ptr());
    let (gt_counts, prediction_counts) =
        (gt_counts.as_ptr(), prediction_counts.map_or(std::ptr::null(), <[i64]>::as_ptr));
    // SAFETY: the handles come from live borrowed tensors, the counts from live slices of `images` numbers (or there
    // are none), the error and outputs from `call_for_tensors`.
    call_for_tensors(|error, [best_iou, best_gt, attains]| unsafe {
        raw::mrb_match_by_iou(error, best_iou, best_gt, attains, gt, gt_counts, predictions, prediction_counts, images)
    })
}

/// See [`crate::layers::sigmoid_focal_loss`].
///
/// # Errors
/// Logits that are not `[R, C]`, or targets that are not `[R]`.
pub fn sigmoid_focal_loss(logits: &Tensor, targets: &Tensor, gamma: f64, alpha: f64) -> Result<Tensor> {
    let (logits, targets) = (logits.as_ptr(), targets.as_ptr());
    // SAFETY: the handles come from live borrowed tensors, the error and output from `call_for_tensor`.
    call_for_tensor(|error, loss| unsafe { raw::mrb_sigmoid_focal_loss(error, loss, logits, targets, gamma, alpha) })
}

/// `x * scale + shift + residual` with a scale and a shift for each channel, then ReLU: see
/// [`crate::layers::FrozenBatchNorm2d::finish`] and [`crate::layers::Conv2d::forward_then`]. What looks at the memory
/// of `x` sees the result afterwards. There are gradients of all but the scale.
///
/// # Errors
/// `x` that is not `[N, C, H, W]`, scale or shift without one number for each channel, or a residual of another shape.
pub fn channel_affine(
    x: Tensor,
    (scale, shift): (Option<&Tensor>, &Tensor),
    residual: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    let (x, scale, shift, residual) = (x.as_ptr(), optional(scale), shift.as_ptr(), optional(residual));
    // SAFETY: the handles come from live tensors (scale and residual may be null, which the function allows), the error
    // and output from `call_for_tensor`.
    call_for_tensor(|error, y| unsafe { raw::mrb_channel_affine(error, y, x, scale, shift, residual, relu) })
}

/// See [`crate::layers::dcn::modulated_deform_conv`]; without a mask it is version 1.
///
/// # Errors
/// A geometry with numbers out of range, shapes that do not fit it, or tensors of different types.
pub fn deform_conv(
    input: &Tensor,
    offset: &Tensor,
    mask: Option<&Tensor>,
    weight: &Tensor,
    geometry: &DeformConvGeometry,
) -> Result<Tensor> {
    let (input, offset, mask, weight) = (input.as_ptr(), offset.as_ptr(), optional(mask), weight.as_ptr());
    // SAFETY: the handles come from live borrowed tensors (the mask's may be null, which the function allows), the
    // geometry from a live borrow, the error and output from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe {
        raw::mrb_deform_conv(error, output, input, offset, mask, weight, geometry)
    })
}

/// See [`crate::layers::dcn::deform_roi_pooling`].
///
/// # Errors
/// A geometry with numbers out of range, shapes that do not fit it, or, on the CPU, a RoI of an image that is not in
/// the batch.
pub fn deform_roi_pool(
    input: &Tensor,
    rois: &Tensor,
    trans: Option<&Tensor>,
    geometry: &DeformRoiPoolGeometry,
) -> Result<Tensor> {
    let (input, rois, trans) = (input.as_ptr(), rois.as_ptr(), optional(trans));
    // SAFETY: the handles come from live borrowed tensors (the offsets' may be null, which the function allows), the
    // geometry from a live borrow, the error and output from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe { raw::mrb_deform_roi_pool(error, output, input, rois, trans, geometry) })
}
