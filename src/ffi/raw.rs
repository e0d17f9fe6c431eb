//! The declarations of `csrc/api.h`, in its order.

use std::ffi::{c_char, c_int};

use torch_sys::C_tensor;

/// `mrb_error`.
#[repr(C)]
pub struct Error {
    pub message: [c_char; 4096],
}

impl Error {
    pub fn new() -> Self {
        Self { message: [0; 4096] }
    }
}

extern "C" {
    pub fn mrb_roi_align(
        error: *mut Error,
        output: *mut *mut C_tensor,
        input: *const C_tensor,
        rois: *const C_tensor,
        pooled_height: i64,
        pooled_width: i64,
        spatial_scale: f64,
        sampling_ratio: i64,
    ) -> c_int;

    pub fn mrb_nms(
        error: *mut Error,
        keep: *mut *mut C_tensor,
        boxes: *const C_tensor,
        scores: *const C_tensor,
        threshold: f64,
        suppress_at_threshold: bool,
    ) -> c_int;
}
