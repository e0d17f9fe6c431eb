//! Safe functions over `csrc/api.h`: the only place with `unsafe` code. Every C++ exception comes back as an error.

mod ops;
mod raw;

pub use ops::{nms, roi_align};

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

/// Like [`call`], for a function that makes one tensor.
fn call_for_tensor(function: impl FnOnce(*mut raw::Error, *mut *mut C_tensor) -> c_int) -> Result<Tensor> {
    let mut output = std::ptr::null_mut();
    call(|error| function(error, &mut output))?;
    assert!(!output.is_null(), "a function of csrc/api.h succeeded without an output");
    // SAFETY: a function that returned 0 has put a new at::Tensor there, which now belongs to us alone.
    Ok(unsafe { Tensor::from_ptr(output) })
}
