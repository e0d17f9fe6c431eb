//! Safe functions over `csrc/api.h` and the operating system: the only place with `unsafe` code. Every C++ exception
//! comes back as an error.

mod autocast;
mod backends;
mod bytes;
mod counters;
mod cuda;
mod distributed;
mod fused_conv;
mod ops;
mod optim;
mod raw;
mod runtime;
pub mod system;

pub use autocast::{cast_of, Autocast};
pub use backends::{cuda_peak_memory, cuda_set_device, is_deterministic, set_deterministic, set_tf32};
pub use bytes::copy_bytes;
pub use counters::{OperatorCounter, SyncCounter};
pub use cuda::{cuda_machine, has_kernels_for, open_cuda, CudaDevice, CudaMachine, CUDA_ARCHITECTURES};
pub use distributed::{on_uncaught_exception, ProcessGroup, Reducer, Store};
pub use fused_conv::{can_fuse_conv, fused_conv, is_ready_for_conv, ready_for_conv, FusedConv};
pub use ops::{
    channel_affine, deform_conv, deform_roi_pool, match_by_iou, nms, nms_mask, roi_align, roi_pool, sigmoid_focal_loss,
};
pub use optim::{clear_gradients, copy_all, sgd_step, unscale_gradients, SgdParameter};
pub use raw::{DeformConvGeometry, DeformRoiPoolGeometry};
pub use runtime::{
    cat_rows, channels_last, is_channels_last, is_grad_enabled, keep_freed_memory, nchw, pinned_tensor, tensor_of,
    upload, upsample_nearest, Generator,
};

use std::ffi::{c_int, CStr};

use anyhow::{anyhow, Result};
use tch::Tensor;
use torch_sys::C_tensor;

/// Calls a function of `csrc/api.h` with room for its message; a non-zero return becomes the error.
fn call(function: impl FnOnce(*mut raw::Error) -> c_int) -> Result<()> {
    let mut error = raw::Error::new();
    if function(&mut error) == 0 {
        return Ok(());
    }
    let bytes: Vec<u8> = error.message.iter().map(|&c| c as u8).collect();
    let message = CStr::from_bytes_until_nul(&bytes).map(|m| m.to_string_lossy().into_owned());
    Err(anyhow!(message.unwrap_or_else(|_| "error without a message".into())))
}

/// Like [`call`], for a function that makes `N` tensors.
fn call_for_tensors<const N: usize>(
    function: impl FnOnce(*mut raw::Error, [*mut *mut C_tensor; N]) -> c_int,
) -> Result<[Tensor; N]> {
    let mut outputs: [*mut C_tensor; N] = [std::ptr::null_mut(); N];
    let places = outputs.each_mut().map(|place| place as *mut *mut C_tensor);
    call(|error| function(error, places))?;
    Ok(outputs.map(|output| {
        assert!(!output.is_null(), "a function of csrc/api.h succeeded without an output");
        // SAFETY: a function that returned 0 has put new at::Tensors there, which now belong to us alone.
        unsafe { Tensor::from_ptr(output) }
    }))
}

/// Like [`call`], for a function that makes one tensor.
fn call_for_tensor(function: impl FnOnce(*mut raw::Error, *mut *mut C_tensor) -> c_int) -> Result<Tensor> {
    let [output] = call_for_tensors(|error, [output]| function(error, output))?;
    Ok(output)
}

/// The handle of a tensor that may be absent.
fn optional(tensor: Option<&Tensor>) -> *const C_tensor {
    tensor.map_or(std::ptr::null(), Tensor::as_ptr)
}
