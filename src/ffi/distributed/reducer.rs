use std::ffi::CString;
use std::ptr::NonNull;

use anyhow::{ensure, Result};
use tch::Tensor;

use super::super::{call, raw};
use super::{make, ProcessGroup};

/// Averages gradients over the processes while `backward` still runs (`DistributedDataParallel` without its module).
///
/// Each iteration calls [`prepare_for_forward`](Reducer::prepare_for_forward), computes a loss that every parameter
/// takes part in, calls [`prepare_for_backward`](Reducer::prepare_for_backward), runs `backward`, and calls
/// [`check_finalized`](Reducer::check_finalized).
pub struct Reducer {
    handle: NonNull<raw::Reducer>,
}

// SAFETY: a c10d::Reducer locks itself; autograd calls it from threads of its own.
unsafe impl Send for Reducer {}

impl Reducer {
    /// `on_computed` is called in each backward pass as soon as this process has all of its own gradients and only
    /// waits for the other processes; it must not panic.
    ///
    /// # Errors
    /// The processes do not have the same parameters, or one cannot be reached.
    pub fn new(group: &ProcessGroup, parameters: &[(String, Tensor)], on_computed: extern "C" fn()) -> Result<Self> {
        ensure!(!parameters.is_empty(), "no parameter is trained");
        let tensors: Vec<_> = parameters.iter().map(|(_, tensor)| tensor.as_ptr() as *const _).collect();
        let names: Vec<CString> =
            parameters.iter().map(|(name, _)| CString::new(name.as_str())).collect::<Result<_, _>>()?;
        let names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: all pointers are valid for the call; the reducer keeps references to the tensors and the group.
        let handle = make(|error, reducer| unsafe {
            raw::mrb_reducer_new(
                error,
                reducer,
                group.handle.as_ptr(),
                tensors.as_ptr(),
                names.as_ptr(),
                parameters.len(),
                on_computed,
            )
        })?;
        Ok(Self { handle })
    }

    /// # Errors
    /// Another process has ended, or does not answer within the timeout.
    pub fn prepare_for_forward(&mut self) -> Result<()> {
        // SAFETY: the handle is live as long as self.
        call(|error| unsafe { raw::mrb_reducer_prepare_for_forward(error, self.handle.as_ptr()) })
    }

    /// # Errors
    /// The iteration before did not reach every parameter.
    pub fn prepare_for_backward(&mut self) -> Result<()> {
        // SAFETY: the handle is live as long as self.
        call(|error| unsafe { raw::mrb_reducer_prepare_for_backward(error, self.handle.as_ptr()) })
    }

    /// # Errors
    /// A parameter did not take part in the loss, so that its gradient, and those sent with it, were not averaged.
    pub fn check_finalized(&mut self) -> Result<()> {
        // SAFETY: the handle is live as long as self.
        call(|error| unsafe { raw::mrb_reducer_check_finalized(error, self.handle.as_ptr()) })
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: the handle was made by csrc for this object alone and is not used again. A failure to take the
        // hooks off the parameters leaves nothing to do.
        let _ = call(|error| unsafe { raw::mrb_reducer_free(error, self.handle.as_ptr()) });
    }
}
