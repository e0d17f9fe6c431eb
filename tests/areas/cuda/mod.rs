//! What needs an NVIDIA GPU. Without one every test here prints `SKIPPED` and why; `tools/gpu_check.sh` runs them where one is.

mod dense_ops;
mod models;
mod nccl;
mod roi_and_nms;

use maskrcnn_benchmark::engine::device::parse_device;
use tch::Device;

/// The GPU; `None` (said aloud) where the machine or the build has none.
fn device() -> Option<Device> {
    match parse_device("cuda") {
        Ok(device) => Some(device),
        Err(why) => {
            println!("SKIPPED: {why}");
            None
        }
    }
}
