//! `MODEL.DEVICE`.

use anyhow::{bail, ensure, Result};
use tch::{Cuda, Device};

use crate::ffi::{self, cuda_machine, has_kernels_for, open_cuda};
use crate::utils::miscellaneous;

/// The device that a name such as `cpu`, `cuda` or `cuda:1` means. CUDA is made ready for use.
///
/// # Errors
/// Another name, a device that this machine does not have, or one for which this program has no kernels. For CUDA the
/// message says what is missing: kernels in this program, the driver, a GPU, or a library.
pub fn parse_device(name: &str) -> Result<Device> {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    match (kind, index.parse::<usize>()) {
        ("cpu", Ok(0)) => Ok(Device::Cpu),
        ("cuda", Ok(index)) => match cuda_device(index) {
            Ok(()) => Ok(Device::Cuda(index)),
            Err(missing) => {
                bail!("MODEL.DEVICE is {name:?}, but {missing}; to run on the CPU add: MODEL.DEVICE cpu")
            }
        },
        _ => bail!("MODEL.DEVICE must be 'cpu', 'cuda' or 'cuda:N', it is {name:?}"),
    }
}

fn cuda_device(index: usize) -> Result<()> {
    let devices = cuda_machine()?.devices;
    ensure!(index < devices.len(), "this machine has {} CUDA devices", devices.len());
    let device = &devices[index];
    let (major, minor) = device.capability;
    ensure!(
        has_kernels_for(ffi::CUDA_ARCHITECTURES, device.capability),
        "this program has kernels for {} and the GPU ({}) is {major}.{minor}: build it with \
         TORCH_CUDA_ARCH_LIST={major}.{minor}",
        ffi::CUDA_ARCHITECTURES,
        device.name
    );
    open_cuda()?;
    ensure!(
        Cuda::is_available(),
        "libtorch finds no CUDA device although its CUDA library is open: something asked libtorch about CUDA before (a \
         seed does), and it remembers the answer"
    );
    Ok(())
}

/// The most memory so far in MiB: that of tensors on a CUDA device, as in the original, or that of the process. `None`
/// where it is not known.
pub fn peak_memory_mib(device: Device) -> Option<f64> {
    match device {
        Device::Cuda(index) => ffi::cuda_peak_memory(index).ok().map(|bytes| bytes as f64 / 1024.0 / 1024.0),
        _ => miscellaneous::peak_memory_mib(),
    }
}

/// Waits until a CUDA device has done all that it was given; nothing on the CPU.
pub fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_the_names_of_the_original() -> Result<()> {
        assert_eq!(parse_device("cpu")?, Device::Cpu);
        for wrong in ["gpu", "cpu:1", "cuda:x", ""] {
            let error = parse_device(wrong).unwrap_err().to_string();
            assert!(error.contains("MODEL.DEVICE"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn what_cuda_lacks_here_is_said() {
        if let Err(missing) = open_cuda() {
            let error = parse_device("cuda").unwrap_err().to_string();
            assert!(error.contains("MODEL.DEVICE cpu"), "{error}");
            assert!(error.contains(&missing.to_string()), "{error} / {missing}");
        } else {
            let count = cuda_machine().unwrap().devices.len();
            let error = parse_device(&format!("cuda:{count}")).unwrap_err().to_string();
            assert!(error.contains("CUDA devices"), "{error}");
        }
    }
}
