//! The declarations of `csrc/api.h`, in its order.

use std::ffi::{c_char, c_int, c_void};

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

/// `mrb_store`, only ever behind a pointer.
#[repr(C)]
pub struct Store {
    _private: [u8; 0],
}

/// `mrb_process_group`, only ever behind a pointer.
#[repr(C)]
pub struct ProcessGroup {
    _private: [u8; 0],
}

/// `mrb_reducer`, only ever behind a pointer.
#[repr(C)]
pub struct Reducer {
    _private: [u8; 0],
}

/// `mrb_cuda_versions`.
#[repr(C)]
#[derive(Default)]
pub struct CudaVersions {
    pub runtime: i64,
    pub driver: i64,
    pub cudnn: i64,
}

/// `mrb_cuda_device`.
#[repr(C)]
pub struct CudaDevice {
    pub name: [c_char; 256],
    pub total_memory: i64,
    pub major: i64,
    pub minor: i64,
}

/// `mrb_autocast`.
#[repr(C)]
pub struct Autocast {
    pub cuda: bool,
    pub enabled: bool,
    pub dtype: i32,
}

/// `mrb_sgd_parameter`.
#[repr(C)]
pub struct SgdParameter {
    pub parameter: *const C_tensor,
    pub momentum_buffer: *const C_tensor,
    pub lr: f64,
    pub weight_decay: f64,
    pub first: bool,
}

/// `mrb_deform_conv_geometry`; see [`crate::layers::dcn::DeformConvGeometry`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DeformConvGeometry {
    /// Rows from one position of the kernel to the next.
    pub stride_h: i64,
    /// Columns from one position of the kernel to the next.
    pub stride_w: i64,
    /// Rows of zeros above and below.
    pub pad_h: i64,
    /// Columns of zeros on each side.
    pub pad_w: i64,
    /// Rows from one weight of the kernel to the next.
    pub dilation_h: i64,
    /// Columns from one weight of the kernel to the next.
    pub dilation_w: i64,
    /// Parts of the channels that are convolved separately.
    pub groups: i64,
    /// Parts of the channels that have offsets (and masks) of their own.
    pub deformable_groups: i64,
}

/// `mrb_deform_roi_pool_geometry`; see [`crate::layers::dcn::DeformRoIPoolingConfig`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DeformRoiPoolGeometry {
    /// Feature cells per image pixel.
    pub spatial_scale: f64,
    /// Bins along each side.
    pub pooled_size: i64,
    /// Output channels.
    pub output_dim: i64,
    /// The input has `output_dim · group_size²` channels; each bin reads one of the groups.
    pub group_size: i64,
    /// Offsets along each side.
    pub part_size: i64,
    /// Samples along each side of a bin.
    pub samples_per_part: i64,
    /// What offsets are multiplied with, beside the RoI's size.
    pub trans_std: f64,
}

extern "C" {
    pub fn mrb_roi_align(
        error: *mut Error,
        output: *mut *mut C_tensor,
        inputs: *const *const C_tensor,
        spatial_scales: *const f64,
        map_count: i64,
        rois: *const C_tensor,
        levels: *const C_tensor,
        pooled_height: i64,
        pooled_width: i64,
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

    pub fn mrb_nms_mask(
        error: *mut Error,
        keep: *mut *mut C_tensor,
        boxes: *const C_tensor,
        scores: *const C_tensor,
        groups: *const C_tensor,
        group_count: i64,
        largest_group: i64,
        threshold: f64,
        suppress_at_threshold: bool,
    ) -> c_int;

    pub fn mrb_match_by_iou(
        error: *mut Error,
        best_iou: *mut *mut C_tensor,
        best_gt: *mut *mut C_tensor,
        attains_gt_maximum: *mut *mut C_tensor,
        gt: *const C_tensor,
        gt_counts: *const i64,
        predictions: *const C_tensor,
        prediction_counts: *const i64,
        images: usize,
    ) -> c_int;

    pub fn mrb_sigmoid_focal_loss(
        error: *mut Error,
        loss: *mut *mut C_tensor,
        logits: *const C_tensor,
        targets: *const C_tensor,
        gamma: f64,
        alpha: f64,
    ) -> c_int;

    pub fn mrb_channel_affine(
        error: *mut Error,
        y: *mut *mut C_tensor,
        x: *const C_tensor,
        scale: *const C_tensor,
        shift: *const C_tensor,
        residual: *const C_tensor,
        relu: bool,
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

    pub fn mrb_upsample_nearest(
        error: *mut Error,
        output: *mut *mut C_tensor,
        input: *const C_tensor,
        height: i64,
        width: i64,
        scale: f64,
    ) -> c_int;

    pub fn mrb_can_fuse_conv(input: *const C_tensor) -> bool;

    pub fn mrb_is_ready_for_conv(input: *const C_tensor, weight: *const C_tensor) -> bool;

    pub fn mrb_ready_for_conv(
        error: *mut Error,
        output: *mut *mut C_tensor,
        input: *const C_tensor,
        weight: *const C_tensor,
    ) -> c_int;

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

    pub fn mrb_cuda_devices(error: *mut Error, versions: *mut CudaVersions, count: *mut i64) -> c_int;

    pub fn mrb_cuda_device_at(error: *mut Error, device: *mut CudaDevice, index: i64) -> c_int;

    pub fn mrb_cuda_open(error: *mut Error) -> c_int;

    pub fn mrb_generator_new(error: *mut Error, generator: *mut *mut Generator, seed: u64) -> c_int;

    pub fn mrb_generator_default(error: *mut Error, generator: *mut *mut Generator) -> c_int;

    pub fn mrb_generator_default_cuda(error: *mut Error, generator: *mut *mut Generator, index: i64) -> c_int;

    pub fn mrb_generator_free(generator: *mut Generator);

    pub fn mrb_generator_state(error: *mut Error, state: *mut *mut C_tensor, generator: *mut Generator) -> c_int;

    pub fn mrb_generator_set_state(error: *mut Error, generator: *mut Generator, state: *const C_tensor) -> c_int;

    pub fn mrb_randperm(error: *mut Error, output: *mut *mut C_tensor, n: i64, generator: *mut Generator) -> c_int;

    pub fn mrb_rand(error: *mut Error, output: *mut *mut C_tensor, n: i64, generator: *mut Generator) -> c_int;

    pub fn mrb_autocast_enter(error: *mut Error, before: *mut Autocast, cuda: bool, bfloat16: bool) -> c_int;

    pub fn mrb_autocast_leave(error: *mut Error, before: *const Autocast) -> c_int;

    pub fn mrb_cast_weights(error: *mut Error, weights: *const *const C_tensor, len: usize) -> c_int;

    pub fn mrb_grad_enabled() -> bool;

    pub fn mrb_cast_of(error: *mut Error, output: *mut *mut C_tensor, weight: *const C_tensor) -> c_int;

    pub fn mrb_tensor_over(
        error: *mut Error,
        output: *mut *mut C_tensor,
        values: *mut f32,
        sizes: *const i64,
        dimensions: usize,
        release: extern "C" fn(*mut c_void),
        owner: *mut c_void,
    ) -> c_int;

    pub fn mrb_cat_rows(
        error: *mut Error,
        output: *mut *mut C_tensor,
        tensors: *const *const C_tensor,
        len: usize,
    ) -> c_int;

    pub fn mrb_empty_pinned(
        error: *mut Error,
        output: *mut *mut C_tensor,
        sizes: *const i64,
        dimensions: usize,
        index: i64,
    ) -> c_int;

    pub fn mrb_upload(error: *mut Error, output: *mut *mut C_tensor, tensor: *const C_tensor, index: i64) -> c_int;

    pub fn mrb_copy_all(
        error: *mut Error,
        targets: *const *const C_tensor,
        sources: *const *const C_tensor,
        len: usize,
    ) -> c_int;

    pub fn mrb_clear_gradients(error: *mut Error, parameters: *const *const C_tensor, len: usize) -> c_int;

    pub fn mrb_unscale_gradients(
        error: *mut Error,
        found_non_finite: *mut *mut C_tensor,
        parameters: *const *const C_tensor,
        len: usize,
        inverse_scale: f64,
    ) -> c_int;

    pub fn mrb_sgd_step(error: *mut Error, parameters: *const SgdParameter, len: usize, momentum: f64) -> c_int;

    pub fn mrb_set_deterministic(error: *mut Error, deterministic: bool) -> c_int;

    pub fn mrb_is_deterministic() -> bool;

    pub fn mrb_set_tf32(error: *mut Error, allowed: bool) -> c_int;

    pub fn mrb_cuda_set_device(error: *mut Error, index: i64) -> c_int;

    pub fn mrb_cuda_peak_memory(error: *mut Error, bytes: *mut i64, index: i64) -> c_int;

    pub fn mrb_count_syncs(error: *mut Error, on: bool) -> c_int;

    pub fn mrb_syncs_counted() -> i64;

    pub fn mrb_count_operators(error: *mut Error, on: bool) -> c_int;

    pub fn mrb_operators_counted(
        error: *mut Error,
        sink: *mut c_void,
        take: extern "C" fn(*mut c_void, *const c_char, i64),
    ) -> c_int;

    pub fn mrb_store_new(
        error: *mut Error,
        store: *mut *mut Store,
        bound_port: *mut u16,
        host: *const c_char,
        port: u16,
        is_server: bool,
        timeout_ms: i64,
    ) -> c_int;
    pub fn mrb_store_with_prefix(
        error: *mut Error,
        prefixed: *mut *mut Store,
        store: *const Store,
        prefix: *const c_char,
    ) -> c_int;
    pub fn mrb_store_free(store: *mut Store);
    pub fn mrb_store_set(
        error: *mut Error,
        store: *const Store,
        key: *const c_char,
        value: *const u8,
        len: usize,
    ) -> c_int;
    pub fn mrb_store_get(
        error: *mut Error,
        value: *mut *mut C_tensor,
        store: *const Store,
        key: *const c_char,
    ) -> c_int;
    pub fn mrb_store_add(
        error: *mut Error,
        sum: *mut i64,
        store: *const Store,
        key: *const c_char,
        amount: i64,
    ) -> c_int;
    pub fn mrb_store_check(error: *mut Error, is_there: *mut bool, store: *const Store, key: *const c_char) -> c_int;

    pub fn mrb_process_group_gloo(
        error: *mut Error,
        group: *mut *mut ProcessGroup,
        store: *const Store,
        rank: i64,
        world_size: i64,
        timeout_ms: i64,
    ) -> c_int;
    pub fn mrb_process_group_add_nccl(
        error: *mut Error,
        group: *const ProcessGroup,
        store: *const Store,
        rank: i64,
        world_size: i64,
        timeout_ms: i64,
    ) -> c_int;
    pub fn mrb_process_group_shutdown(error: *mut Error, group: *const ProcessGroup) -> c_int;
    pub fn mrb_process_group_free(group: *mut ProcessGroup);
    pub fn mrb_barrier(error: *mut Error, group: *const ProcessGroup) -> c_int;
    pub fn mrb_all_reduce_sum(error: *mut Error, group: *const ProcessGroup, tensor: *const C_tensor) -> c_int;
    pub fn mrb_all_gather(
        error: *mut Error,
        group: *const ProcessGroup,
        output: *const C_tensor,
        input: *const C_tensor,
    ) -> c_int;
    pub fn mrb_gather(
        error: *mut Error,
        group: *const ProcessGroup,
        output: *const C_tensor,
        input: *const C_tensor,
    ) -> c_int;
    pub fn mrb_broadcast(
        error: *mut Error,
        group: *const ProcessGroup,
        tensors: *const *const C_tensor,
        len: usize,
    ) -> c_int;

    pub fn mrb_reducer_new(
        error: *mut Error,
        reducer: *mut *mut Reducer,
        group: *const ProcessGroup,
        parameters: *const *const C_tensor,
        names: *const *const c_char,
        len: usize,
        on_computed: extern "C" fn(),
    ) -> c_int;
    pub fn mrb_reducer_free(error: *mut Error, reducer: *mut Reducer) -> c_int;
    pub fn mrb_reducer_prepare_for_forward(error: *mut Error, reducer: *mut Reducer) -> c_int;
    pub fn mrb_reducer_prepare_for_backward(error: *mut Error, reducer: *mut Reducer) -> c_int;
    pub fn mrb_reducer_check_finalized(error: *mut Error, reducer: *mut Reducer) -> c_int;

    pub fn mrb_on_uncaught_exception(report: extern "C" fn(*const c_char));
}
