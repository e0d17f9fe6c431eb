//! `MODEL.DEVICE`.

use anyhow::{bail, ensure, Result};
use tch::{Cuda, Device};

/// The device that a name such as `cpu`, `cuda` or `cuda:1` means.
///
/// # Errors
/// Another name, or a device that this machine does not have.
pub fn parse_device(name: &str) -> Result<Device> {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    match (kind, index.parse::<usize>()) {
        ("cpu", Ok(0)) => Ok(Device::Cpu),
        ("cuda", Ok(index)) => {
            ensure!(
                Cuda::is_available(),
                "MODEL.DEVICE is {name:?}, but CUDA is not available here; to run on the CPU add: MODEL.DEVICE cpu"
            );
            let count = Cuda::device_count() as usize;
            ensure!(index < count, "MODEL.DEVICE is {name:?}, but this machine has {count} CUDA devices");
            Ok(Device::Cuda(index))
        }
        _ => bail!("MODEL.DEVICE must be 'cpu', 'cuda' or 'cuda:N', it is {name:?}"),
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
    fn a_missing_cuda_device_is_named() {
        if !Cuda::is_available() {
            let error = parse_device("cuda").unwrap_err().to_string();
            assert!(error.contains("MODEL.DEVICE cpu"), "{error}");
        }
    }
}
