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

/// `at::Generator`, only ever behind a pointer.
#[repr(C)]
pub struct Generator {
    _private: [u8; 0],
}

/// `mrb_deform_conv_geometry`; see [`crate::layers::dcn::DeformConvGeometry`].
#[repr(C)]
pub struct DeformConvGeometry {
    pub stride_h: i64,
    pub stride_w: i64,
    pub pad_h: i64,
    pub pad_w: i64,
    pub dilation_h: i64,
    pub dilation_w: i64,
    pub groups: i64,
    pub deformable_groups: i64,
}

/// `mrb_deform_roi_pool_geometry`; see [`crate::layers::dcn::DeformRoIPoolingConfig`].
#[repr(C)]
pub struct DeformRoiPoolGeometry {
    pub spatial_scale: f64,
    pub pooled_size: i64,
    pub output_dim: i64,
    pub group_size: i64,
    pub part_size: i64,
    pub samples_per_part: i64,
    pub trans_std: f64,
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

    pub fn mrb_roi_pool(
        error: *mut Error,
        output: *mut *mut C_tensor,
        input: *const C_tensor,
        rois: *const C_tensor,
        pooled_height: i64,
        pooled_width: i64,
        spatial_scale: f64,
    ) -> c_int;

    pub fn mrb_nms(
        error: *mut Error,
        keep: *mut *mut C_tensor,
        boxes: *const C_tensor,
        scores: *const C_tensor,
        threshold: f64,
        suppress_at_threshold: bool,
    ) -> c_int;

    pub fn mrb_match_by_iou(
        error: *mut Error,
        best_iou: *mut *mut C_tensor,
        best_gt: *mut *mut C_tensor,
        attains_gt_maximum: *mut *mut C_tensor,
        gt: *const C_tensor,
        predictions: *const C_tensor,
    ) -> c_int;

    pub fn mrb_sigmoid_focal_loss(
        error: *mut Error,
        loss: *mut *mut C_tensor,
        logits: *const C_tensor,
        targets: *const C_tensor,
        gamma: f64,
        alpha: f64,
    ) -> c_int;

    pub fn mrb_deform_conv(
        error: *mut Error,
        output: *mut *mut C_tensor,
        input: *const C_tensor,
        offset: *const C_tensor,
        mask: *const C_tensor,
        weight: *const C_tensor,
        geometry: *const DeformConvGeometry,
    ) -> c_int;

    pub fn mrb_deform_roi_pool(
        error: *mut Error,
        output: *mut *mut C_tensor,
        input: *const C_tensor,
        rois: *const C_tensor,
        trans: *const C_tensor,
        geometry: *const DeformRoiPoolGeometry,
    ) -> c_int;

    pub fn mrb_contiguous(
        error: *mut Error,
        output: *mut *mut C_tensor,
        tensor: *const C_tensor,
        channels_last: bool,
    ) -> c_int;

    pub fn mrb_is_channels_last(tensor: *const C_tensor) -> bool;

    pub fn mrb_can_fuse_conv(input: *const C_tensor) -> bool;

    pub fn mrb_fused_conv(
        error: *mut Error,
        output: *mut *mut C_tensor,
        input: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        residual: *const C_tensor,
        stride: i64,
        padding: i64,
        dilation: i64,
        groups: i64,
        relu: bool,
    ) -> c_int;

    pub fn mrb_generator_new(error: *mut Error, generator: *mut *mut Generator, seed: u64) -> c_int;

    pub fn mrb_generator_default(error: *mut Error, generator: *mut *mut Generator) -> c_int;

    pub fn mrb_generator_free(generator: *mut Generator);

    pub fn mrb_generator_state(error: *mut Error, state: *mut *mut C_tensor, generator: *mut Generator) -> c_int;

    pub fn mrb_generator_set_state(error: *mut Error, generator: *mut Generator, state: *const C_tensor) -> c_int;

    pub fn mrb_randperm(error: *mut Error, output: *mut *mut C_tensor, n: i64, generator: *mut Generator) -> c_int;

    pub fn mrb_rand(error: *mut Error, output: *mut *mut C_tensor, n: i64, generator: *mut Generator) -> c_int;
}
