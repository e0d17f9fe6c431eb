//! Memory that libtorch cannot get. To ask for too much is no bug: the message says where it was and which keys of the
//! configuration ask for less.

use super::comm::{self, Phase};

/// How libtorch, CUDA and its libraries begin to say it, in small letters.
const SIGNS: [&str; 11] = [
    "cuda out of memory",
    "cuda error: out of memory",
    "out of memory",
    "defaultcpuallocator:",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "std::bad_alloc",
    // Of cuBLAS, cuSOLVER and cuDNN.
    "_alloc_failed",
    "_allocation_failed",
    // More than 2^63 bytes.
    "storage size calculation overflowed",
];

/// Whether this is the message of an allocation that failed.
pub fn is_out_of_memory(message: &str) -> bool {
    start(message).is_some()
}

/// A message of an allocation that failed, in one line without what stands before libtorch's own sentence, with the
/// place in the work of this process and with what asks for less memory. `None` for all other messages.
pub fn explain(message: &str) -> Option<String> {
    let said = message[start(message)?..].replace('\n', " ");
    let (phase, place) = comm::whereabouts();
    let lower = message.to_lowercase();
    let on_gpu = ["cuda", "cublas", "cudnn", "cusolver", "nccl", "gpu"].iter().any(|name| lower.contains(name));
    let device = if on_gpu { "GPU" } else { "CPU" };
    let place = if phase == Phase::Start { String::new() } else { format!(", in {place}") };
    Some(format!("{}; this was on the {device}{place}. {}", said.trim_end_matches(['.', ' ']), advice(phase)))
}

fn advice(phase: Phase) -> &'static str {
    match phase {
        Phase::Start => {
            "Less memory is needed with smaller values of SOLVER.IMS_PER_BATCH, TEST.IMS_PER_BATCH, INPUT.MIN_SIZE_* and \
             INPUT.MAX_SIZE_*, with a smaller model, or with DTYPE float16"
        }
        Phase::Testing | Phase::Gather | Phase::Evaluation => {
            "Less memory is needed with smaller values of TEST.IMS_PER_BATCH, INPUT.MIN_SIZE_TEST and \
             INPUT.MAX_SIZE_TEST, or with DTYPE float16"
        }
        _ => {
            "Less memory is needed with smaller values of SOLVER.IMS_PER_BATCH (and rates to fit), INPUT.MIN_SIZE_TRAIN and \
             INPUT.MAX_SIZE_TRAIN, or with DTYPE float16"
        }
    }
}

/// Where the sentence begins.
fn start(message: &str) -> Option<usize> {
    let lower = message.to_ascii_lowercase();
    let at = SIGNS.iter().filter_map(|sign| lower.find(sign)).min()?;
    // With the beginning of the word.
    Some(message[..at].trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len())
}

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, AssertUnwindSafe};

    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::utils::miscellaneous::panic_message;

    /// More than the address space holds, and more than a number of 64 bits does.
    #[test]
    fn libtorch_s_own_failures_are_known() {
        for (size, sentence) in [
            ([1i64 << 30, 1 << 30], "DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
            ([1 << 33, 1 << 33], "Storage size calculation overflowed"),
        ] {
            let panic = catch_unwind(AssertUnwindSafe(|| Tensor::zeros(size, (Kind::Float, Device::Cpu))));
            let message = panic_message(panic.expect_err("too much").as_ref());
            let explained = explain(&message).unwrap_or_else(|| panic!("{message}"));
            assert!(explained.starts_with(sentence) && explained.contains("; this was on the CPU"), "{explained}");
            assert!(explained.contains("IMS_PER_BATCH") && explained.contains("DTYPE float16"), "{explained}");
            assert!(!explained.contains("frame #") && !explained.contains('\n'), "{explained}");
        }
    }

    /// As libtorch and CUDA's libraries put them on a GPU.
    #[test]
    fn failures_on_a_gpu_are_known() {
        for (message, start) in [
            ("that fit: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a", "CUDA out of memory. Tried"),
            ("CUDA error: out of memory\nCUDA kernel errors might be", "CUDA error: out of memory CUDA kernel"),
            (
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "CUBLAS_STATUS_ALLOC_FAILED",
            ),
            (
                "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
                "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            ),
            ("NCCL error: unhandled cuda error, Cuda failure 2 'out of memory'", "out of memory'"),
        ] {
            let explained = explain(message).unwrap_or_else(|| panic!("{message}"));
            assert!(explained.starts_with(start) && explained.contains("; this was on the GPU"), "{explained}");
        }
    }

    #[test]
    fn other_failures_are_not_taken_for_it() {
        let shapes = "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)";
        for message in [shapes, "CUDA error: an illegal memory access was encountered", "No space left on device"] {
            assert_eq!(explain(message), None, "{message}");
        }
    }
}
