use std::ffi::{c_char, CStr};
use std::panic::catch_unwind;
use std::sync::OnceLock;

use super::raw;

static REPORT: OnceLock<fn(&str)> = OnceLock::new();

/// Calls `report` with the text of an exception that a thread of libtorch throws and nobody catches (c10d's watchdog of
/// NCCL ends a process in this way), in that thread, before the process is aborted. Only the first call counts.
pub fn on_uncaught_exception(report: fn(&str)) {
    if REPORT.set(report).is_ok() {
        // SAFETY: the function lives as long as the program, and no panic leaves it.
        unsafe { raw::mrb_on_uncaught_exception(tell) }
    }
}

extern "C" fn tell(text: *const c_char) {
    // SAFETY: csrc passes a string that ends with zero and lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if let Some(report) = REPORT.get() {
        // The panic hook has printed it, and the process ends in any case.
        let _ = catch_unwind(|| report(&text));
    }
}
