//! How libtorch computes, and what it says of CUDA devices.

use anyhow::Result;

use super::{call, raw};

/// Makes operators whose results depend on the order of threads use an order that is always the same, where libtorch
/// (or an operator of `csrc`) has such a form; where it has none, libtorch warns when the operator is used.
///
/// # Errors
/// What libtorch says.
pub fn set_deterministic(deterministic: bool) -> Result<()> {
    // SAFETY: the error comes from `call`.
    call(|error| unsafe { raw::mrb_set_deterministic(error, deterministic) })
}

/// What [`set_deterministic`] has set.
pub fn is_deterministic() -> bool {
    // SAFETY: the function only reads a flag.
    unsafe { raw::mrb_is_deterministic() }
}

/// Whether matrix products and convolutions of float32 on CUDA may round their factors to TF32 (10 bits of mantissa).
///
/// # Errors
/// What libtorch says.
pub fn set_tf32(allowed: bool) -> Result<()> {
    // SAFETY: the error comes from `call`.
    call(|error| unsafe { raw::mrb_set_tf32(error, allowed) })
}

/// The CUDA device that this thread uses where none is named (`torch.cuda.set_device`).
///
/// # Errors
/// There is no such device, or no CUDA.
pub fn cuda_set_device(index: usize) -> Result<()> {
    // SAFETY: the error comes from `call`.
    call(|error| unsafe { raw::mrb_cuda_set_device(error, index as i64) })
}

/// The most bytes that tensors on a CUDA device have taken at once so far (`torch.cuda.max_memory_allocated`).
///
/// # Errors
/// There is no such device, or no CUDA.
pub fn cuda_peak_memory(index: usize) -> Result<i64> {
    let mut bytes = 0;
    // SAFETY: both pointers are valid for the call.
    call(|error| unsafe { raw::mrb_cuda_peak_memory(error, &mut bytes, index as i64) })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_taken_over() {
        let _lock = crate::utils::testing::generator();
        set_deterministic(true).unwrap();
        assert!(is_deterministic());
        set_deterministic(false).unwrap();
        assert!(!is_deterministic());
        set_tf32(true).unwrap();
        set_tf32(false).unwrap();
    }

    #[test]
    fn a_device_that_does_not_exist_is_an_error() {
        assert!(cuda_set_device(99).is_err());
        assert!(cuda_peak_memory(99).is_err());
    }
}
