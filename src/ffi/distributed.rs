//! Several processes that work together: libtorch's c10d, what `torch.distributed` is made of.

mod process_group;
mod reducer;
mod store;
mod uncaught;

pub use process_group::ProcessGroup;
pub use reducer::Reducer;
pub use store::Store;
pub use uncaught::on_uncaught_exception;

use std::ffi::c_int;
use std::ptr::NonNull;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{call, raw};

fn milliseconds(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX / 2)
}

/// What a function of csrc makes behind a pointer.
fn make<T>(function: impl FnOnce(*mut raw::Error, *mut *mut T) -> c_int) -> Result<NonNull<T>> {
    let mut handle = std::ptr::null_mut();
    call(|error| function(error, &mut handle))?;
    NonNull::new(handle).context("libtorch gave no object")
}

#[cfg(test)]
mod tests;
