//! What libtorch does in a while: operators that it runs, waits for the GPU.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_void, CStr};

use anyhow::Result;

use super::{call, raw};

/// Counts how often the program waits for the GPU, as libtorch sees it (`torch.cuda.set_sync_debug_mode`), from its
/// start until it is dropped. There is one for the whole process, and it counts for the thread that started it and for
/// the backward passes of that thread.
pub struct SyncCounter(());

impl SyncCounter {
    /// Starts at 0.
    ///
    /// # Errors
    /// The program was built without CUDA.
    pub fn start() -> Result<Self> {
        // SAFETY: the error comes from `call`.
        call(|error| unsafe { raw::mrb_count_syncs(error, true) })?;
        Ok(Self(()))
    }

    /// The number so far.
    pub fn count(&self) -> i64 {
        // SAFETY: the function only reads a number.
        unsafe { raw::mrb_syncs_counted() }
    }
}

impl Drop for SyncCounter {
    fn drop(&mut self) {
        // SAFETY: the error comes from `call`. Whoever could start the counter can stop it.
        let _ = call(|error| unsafe { raw::mrb_count_syncs(error, false) });
    }
}

/// Counts the operators that libtorch runs, from its start until it is dropped: on a GPU each is about one launch. An
/// operator that calls others is not counted itself, nor are views and new memory, nor this project's own kernels.
/// There is one for the whole process, and it sees all threads; while it starts and while it is dropped, no other
/// thread may run an operator, as libtorch changes its list of callbacks then.
pub struct OperatorCounter(());

impl OperatorCounter {
    /// Starts at 0.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn start() -> Result<Self> {
        // SAFETY: the error comes from `call`.
        call(|error| unsafe { raw::mrb_count_operators(error, true) })?;
        Ok(Self(()))
    }

    /// How often each has run so far, by its name and that of the outermost operator or step of the backward pass which
    /// it was part of (`aten::add`, `aten::copy_ in aten::reshape`).
    ///
    /// # Errors
    /// What libtorch says.
    pub fn counts(&self) -> Result<BTreeMap<String, i64>> {
        extern "C" fn take(sink: *mut c_void, name: *const c_char, count: i64) {
            // SAFETY: `sink` is the map below, which nobody else uses during the call; the name ends in 0.
            let (counts, name) = unsafe { (&mut *sink.cast::<BTreeMap<String, i64>>(), CStr::from_ptr(name)) };
            counts.insert(name.to_string_lossy().into_owned(), count);
        }
        let mut counts = BTreeMap::new();
        let sink = (&raw mut counts).cast();
        // SAFETY: the map lives as long as the call, which hands it to `take` alone; the error comes from `call`.
        call(|error| unsafe { raw::mrb_operators_counted(error, sink, take) })?;
        Ok(counts)
    }
}

impl Drop for OperatorCounter {
    fn drop(&mut self) {
        // SAFETY: the error comes from `call`. Whoever could start the counter can stop it.
        let _ = call(|error| unsafe { raw::mrb_count_operators(error, false) });
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn operators_are_counted_while_the_counter_lives() {
        let name = concat!(module_path!(), "::count").split_once("::").expect("the crate's name comes first").1;
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        let output = child.args(["--exact", name, "--ignored", "--nocapture"]).output().expect("this program");
        let text = String::from_utf8_lossy(&output.stdout);
        let failure = || format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "{}", failure());
    }

    #[test]
    #[ignore = "no other thread may run an operator meanwhile: the test before runs it alone"]
    fn count() {
        let x = Tensor::ones([2, 2], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let run = || x.matmul(&x).erfinv().sum(Kind::Double).backward();
        let counts = {
            let counter = OperatorCounter::start().unwrap();
            run();
            counter.counts().unwrap()
        };
        // Forward, and what matmul calls instead of itself.
        assert!(counts["aten::erfinv"] >= 1 && counts["aten::mm in aten::matmul"] >= 1, "{counts:?}");
        assert!(counts["aten::mm in MmBackward0"] >= 2, "{counts:?}");
        assert!(!counts.contains_key("aten::matmul"));
        run();
        assert!(!OperatorCounter::start().unwrap().counts().unwrap().contains_key("aten::erfinv"));
    }
}
