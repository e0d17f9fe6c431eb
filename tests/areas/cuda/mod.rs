//! What needs an NVIDIA GPU. Without one every test here prints `SKIPPED` and why; `tools/gpu_check.sh` runs them where
//! one is.

pub mod dense_ops;
mod layers;
mod models;
mod nccl;
pub mod roi_and_nms;
mod transfer;

use maskrcnn_benchmark::engine::device::parse_device;
use maskrcnn_benchmark::ffi;
use tch::Device;

use crate::operators::Operators;

/// The GPU, without TF32, whose 10 bits are less than the limits here; `None` (said aloud) where the machine or the
/// build has none.
fn device() -> Option<Device> {
    match parse_device("cuda") {
        Ok(device) => {
            ffi::set_tf32(false).expect("a switch of libtorch");
            Some(device)
        }
        Err(why) => {
            println!("SKIPPED: {why}");
            None
        }
    }
}

fn operators() -> Option<Operators> {
    device().map(Operators::On)
}
