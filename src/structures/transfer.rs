//! Copies from one device to another.

use tch::{Device, Tensor};

use crate::ffi;

/// The tensor on `device`; the same one where it is there already. What goes from the CPU to a GPU takes the way over
/// pinned memory, so that the program does not wait until it has arrived.
///
/// # Panics
/// On a device that does not exist.
pub fn to_device(tensor: &Tensor, device: Device) -> Tensor {
    match (tensor.device(), device) {
        // An empty tensor cannot be pinned.
        (Device::Cpu, Device::Cuda(index)) if tensor.numel() > 0 => {
            ffi::upload(tensor, index).expect("a CUDA device that exists")
        }
        _ => tensor.to_device(device),
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn nothing_is_copied_on_the_same_device() {
        let tensor = Tensor::ones([2], (Kind::Float, Device::Cpu));
        assert_eq!(to_device(&tensor, Device::Cpu).data_ptr(), tensor.data_ptr());
    }
}
