//! Whether CUDA can be used, and what is missing where it cannot.

use std::ffi::CStr;
use std::sync::OnceLock;

use anyhow::{anyhow, Result};

use super::{call, raw};

/// The architectures for which this program holds kernels, as in `TORCH_CUDA_ARCH_LIST`; empty in a build without CUDA.
pub const CUDA_ARCHITECTURES: &str = env!("MRB_CUDA_ARCHITECTURES");

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDevice {
    /// As the driver names it.
    pub name: String,
    /// Bytes.
    pub total_memory: u64,
    /// Major and minor number of the compute capability.
    pub capability: (u32, u32),
}

/// The CUDA side of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaMachine {
    /// Major and minor version of the CUDA runtime that the kernels are linked with.
    pub runtime: (u32, u32),
    /// The newest CUDA version that the driver knows.
    pub driver: (u32, u32),
    /// Version of cuDNN, if it is there.
    pub cudnn: Option<(u32, u32, u32)>,
    /// The GPUs that CUDA sees.
    pub devices: Vec<CudaDevice>,
}

/// Asks the driver, without opening libtorch's CUDA library.
///
/// # Errors
/// Says what is missing: CUDA kernels in this program, the driver, or a GPU.
pub fn cuda_machine() -> Result<CudaMachine> {
    let mut versions = raw::CudaVersions::default();
    let mut count = 0;
    // SAFETY: the error and the places for the results are live for the call.
    call(|error| unsafe { raw::mrb_cuda_devices(error, &mut versions, &mut count) })?;
    let version = |number: i64| ((number / 1000) as u32, (number % 1000 / 10) as u32);
    let cudnn = versions.cudnn;
    Ok(CudaMachine {
        runtime: version(versions.runtime),
        driver: version(versions.driver),
        cudnn: (cudnn > 0).then_some(((cudnn / 10000) as u32, (cudnn / 100 % 100) as u32, (cudnn % 100) as u32)),
        devices: (0..count).map(device_at).collect::<Result<_>>()?,
    })
}

fn device_at(index: i64) -> Result<CudaDevice> {
    let mut device = raw::CudaDevice { name: [0; 256], total_memory: 0, major: 0, minor: 0 };
    // SAFETY: the error and the place for the result are live for the call.
    call(|error| unsafe { raw::mrb_cuda_device_at(error, &mut device, index) })?;
    let bytes = device.name.map(|c| c as u8);
    Ok(CudaDevice {
        name: CStr::from_bytes_until_nul(&bytes).map_or("unknown".into(), |name| name.to_string_lossy().into_owned()),
        total_memory: device.total_memory as u64,
        capability: (device.major as u32, device.minor as u32),
    })
}

/// Opens libtorch's CUDA library, which programs do not link; once, and before anything asks libtorch whether CUDA is
/// there, since libtorch remembers the answer.
///
/// # Errors
/// Says what is missing: CUDA kernels in this program, the driver, a GPU, or a library, with the loader's own words.
pub fn open_cuda() -> Result<()> {
    static OPENED: OnceLock<Result<(), String>> = OnceLock::new();
    // SAFETY: the error comes from `call`; the function only loads libraries.
    let opened = OPENED.get_or_init(|| call(|error| unsafe { raw::mrb_cuda_open(error) }).map_err(|e| e.to_string()));
    opened.clone().map_err(|message| anyhow!(message))
}

/// Whether a list of architectures, as [`CUDA_ARCHITECTURES`], has code for GPUs of this compute capability: code of
/// the same major and no greater minor number, or PTX of no greater version, which the driver compiles.
pub fn has_kernels_for(architectures: &str, capability: (u32, u32)) -> bool {
    architectures.split([';', ',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
        let (number, ptx) = entry.strip_suffix("+PTX").map_or((entry, false), |number| (number, true));
        // Code for a variant such as 9.0a runs on that very architecture only.
        let general = number.trim_end_matches(char::is_alphabetic);
        let Some((Ok(major), Ok(minor))) = general.split_once('.').map(|(a, b)| (a.parse::<u32>(), b.parse::<u32>()))
        else {
            return false;
        };
        if general != number {
            return capability == (major, minor);
        }
        (major == capability.0 && minor <= capability.1) || (ptx && (major, minor) <= capability)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_on_its_architecture_and_ptx_on_later_ones() {
        let list = "7.5;8.0;9.0a;10.0+PTX";
        for (capability, expected) in
            [((7, 5), true), ((7, 0), false), ((8, 6), true), ((9, 0), true), ((9, 1), false), ((12, 0), true)]
        {
            assert_eq!(has_kernels_for(list, capability), expected, "{capability:?}");
        }
        assert!(!has_kernels_for("", (9, 0)));
        assert!(!has_kernels_for("8.6", (8, 0)));
    }

    #[test]
    fn what_is_missing_is_said_every_time() {
        let Err(error) = open_cuda() else {
            assert!(!cuda_machine().unwrap().devices.is_empty());
            return;
        };
        let expected: &[&str] = if CUDA_ARCHITECTURES.is_empty() {
            &["built without CUDA kernels"]
        } else {
            &["NVIDIA", "libtorch_cuda.so"]
        };
        assert!(expected.iter().any(|part| error.to_string().contains(part)), "{error}");
        assert_eq!(open_cuda().unwrap_err().to_string(), error.to_string());
    }
}
