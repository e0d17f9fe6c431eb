//! The functions of csrc/api.h for operators, as the emulated library has them.

use std::ffi::{c_char, c_int, CStr};

use maskrcnn_benchmark::ffi::{DeformConvGeometry, DeformRoiPoolGeometry};
use maskrcnn_benchmark::layers::{NmsGroups, Predictions};
use tch::Tensor;
use torch_sys::C_tensor;

use super::library::operator;

/// `mrb_error`
#[repr(C)]
struct Error {
    message: [c_char; 4096],
}

type In = *const C_tensor;
type Out = *mut *mut C_tensor;
type Result<T> = std::result::Result<T, String>;

/// Calls a function that makes `N` tensors.
fn call<const N: usize>(function: impl FnOnce(*mut Error, [Out; N]) -> c_int) -> Result<[Tensor; N]> {
    let mut error = Error { message: [0; 4096] };
    let mut outputs = [std::ptr::null_mut(); N];
    if function(&mut error, outputs.each_mut().map(|place| place as Out)) != 0 {
        // SAFETY: the message ends in 0.
        return Err(unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_string_lossy().into_owned());
    }
    // SAFETY: a function that returned 0 has put new tensors there, which now belong to us alone.
    Ok(outputs.map(|output| unsafe { Tensor::from_ptr(output) }))
}

/// The library has been looked for before.
fn found<F: Copy>(name: &str) -> F {
    // SAFETY: every caller below gives the function's type in csrc/api.h.
    unsafe { operator(name) }.expect("the emulated operators")
}

fn optional(tensor: Option<&Tensor>) -> In {
    tensor.map_or(std::ptr::null(), Tensor::as_ptr)
}

pub fn roi_align(input: &Tensor, rois: &Tensor, size: (i64, i64), scale: f64, ratio: i64) -> Result<Tensor> {
    multi_scale_roi_align(std::slice::from_ref(input), rois, None, size, &[scale], ratio)
}

pub fn multi_scale_roi_align(
    inputs: &[Tensor],
    rois: &Tensor,
    levels: Option<&Tensor>,
    (height, width): (i64, i64),
    scales: &[f64],
    ratio: i64,
) -> Result<Tensor> {
    type Run = unsafe extern "C" fn(*mut Error, Out, *const In, *const f64, i64, In, In, i64, i64, i64) -> c_int;
    let run: Run = found("mrb_roi_align");
    let handles: Vec<In> = inputs.iter().map(Tensor::as_ptr).collect();
    let (maps, scales, count) = (handles.as_ptr(), scales.as_ptr(), handles.len() as i64);
    let (rois, levels) = (rois.as_ptr(), optional(levels));
    // SAFETY: the handles come from live tensors, error and output from `call`; so it is below.
    call(|error, [output]| unsafe { run(error, output, maps, scales, count, rois, levels, height, width, ratio) })
        .map(|[output]| output)
}

pub fn roi_pool(input: &Tensor, rois: &Tensor, size: (i64, i64), scale: f64) -> Result<Tensor> {
    let run: unsafe extern "C" fn(*mut Error, Out, In, In, i64, i64, f64) -> c_int = found("mrb_roi_pool");
    // SAFETY: as above.
    call(|error, [output]| unsafe { run(error, output, input.as_ptr(), rois.as_ptr(), size.0, size.1, scale) })
        .map(|[output]| output)
}

pub fn nms(boxes: &Tensor, scores: &Tensor, threshold: f64, at_threshold: bool) -> Result<Tensor> {
    let run: unsafe extern "C" fn(*mut Error, Out, In, In, f64, bool) -> c_int = found("mrb_nms");
    // SAFETY: as above.
    call(|error, [keep]| unsafe { run(error, keep, boxes.as_ptr(), scores.as_ptr(), threshold, at_threshold) })
        .map(|[keep]| keep)
}

pub fn nms_mask(boxes: &Tensor, scores: &Tensor, groups: NmsGroups<'_>, threshold: f64) -> Result<Tensor> {
    let run: unsafe extern "C" fn(*mut Error, Out, In, In, In, i64, i64, f64, bool) -> c_int = found("mrb_nms_mask");
    let (boxes, scores, of_box) = (boxes.as_ptr(), scores.as_ptr(), groups.of_box.as_ptr());
    let (count, largest) = (groups.count, groups.largest);
    // SAFETY: as above.
    call(|error, [keep]| unsafe { run(error, keep, boxes, scores, of_box, count, largest, threshold, false) })
        .map(|[keep]| keep)
}

pub fn match_by_iou(gt: &Tensor, gt_counts: &[i64], predictions: Predictions) -> Result<[Tensor; 3]> {
    type Run = unsafe extern "C" fn(*mut Error, Out, Out, Out, In, *const i64, In, *const i64, usize) -> c_int;
    let run: Run = found("mrb_match_by_iou");
    let (predictions, counts) = match predictions {
        Predictions::OfEach(boxes, counts) => (boxes.as_ptr(), counts.as_ptr()),
        Predictions::Shared(boxes) => (boxes.as_ptr(), std::ptr::null()),
    };
    let (gt, gt_counts, images) = (gt.as_ptr(), gt_counts.as_ptr(), gt_counts.len());
    // SAFETY: as above; the tests give a count for each image.
    call(|error, [iou, index, attains]| unsafe {
        run(error, iou, index, attains, gt, gt_counts, predictions, counts, images)
    })
}

pub fn sigmoid_focal_loss(logits: &Tensor, targets: &Tensor, gamma: f64, alpha: f64) -> Result<Tensor> {
    let run: unsafe extern "C" fn(*mut Error, Out, In, In, f64, f64) -> c_int = found("mrb_sigmoid_focal_loss");
    // SAFETY: as above.
    call(|error, [loss]| unsafe { run(error, loss, logits.as_ptr(), targets.as_ptr(), gamma, alpha) })
        .map(|[loss]| loss)
}

pub fn channel_affine(
    x: &Tensor,
    (scale, shift): (Option<&Tensor>, &Tensor),
    residual: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    let run: unsafe extern "C" fn(*mut Error, Out, In, In, In, In, bool) -> c_int = found("mrb_channel_affine");
    let (x, scale, shift, residual) = (x.as_ptr(), optional(scale), shift.as_ptr(), optional(residual));
    // SAFETY: as above; scale and residual may be null.
    call(|error, [y]| unsafe { run(error, y, x, scale, shift, residual, relu) }).map(|[y]| y)
}

pub fn deform_conv(
    input: &Tensor,
    offset: &Tensor,
    mask: Option<&Tensor>,
    weight: &Tensor,
    geometry: &DeformConvGeometry,
) -> Result<Tensor> {
    let run: unsafe extern "C" fn(*mut Error, Out, In, In, In, In, *const DeformConvGeometry) -> c_int =
        found("mrb_deform_conv");
    let (input, offset, mask, weight) = (input.as_ptr(), offset.as_ptr(), optional(mask), weight.as_ptr());
    // SAFETY: as above; the mask may be null.
    call(|error, [output]| unsafe { run(error, output, input, offset, mask, weight, geometry) }).map(|[output]| output)
}

pub fn deform_roi_pool(
    input: &Tensor,
    rois: &Tensor,
    trans: Option<&Tensor>,
    geometry: &DeformRoiPoolGeometry,
) -> Result<Tensor> {
    let run: unsafe extern "C" fn(*mut Error, Out, In, In, In, *const DeformRoiPoolGeometry) -> c_int =
        found("mrb_deform_roi_pool");
    let (input, rois, trans) = (input.as_ptr(), rois.as_ptr(), optional(trans));
    // SAFETY: as above; the offsets may be null.
    call(|error, [output]| unsafe { run(error, output, input, rois, trans, geometry) }).map(|[output]| output)
}
