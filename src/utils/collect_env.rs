//! What the program runs on, as text for the log (the original's `utils/collect_env.py`).

use std::fmt::Write;

use super::miscellaneous::kib;
use crate::ffi::{cuda_machine, has_kernels_for, CudaMachine, CUDA_ARCHITECTURES};

/// Versions, processor, memory and devices, one per line.
pub fn collect_env_info() -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    let build = if cfg!(debug_assertions) { "debug build" } else { "release build" };
    add("maskrcnn-benchmark version", format!("{} ({build})", env!("CARGO_PKG_VERSION")));
    add("OS", os().unwrap_or_else(|| std::env::consts::OS.into()));
    add("Architecture", std::env::consts::ARCH.into());
    add("CPU", cpu().unwrap_or_else(|| "unknown".into()));
    let cores = std::thread::available_parallelism().map_or("unknown".into(), |n| n.to_string());
    add("Cores available", cores);
    add("libtorch threads", tch::get_num_threads().to_string());
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| kib(&t, "MemTotal:"));
    add("Memory", memory.map_or("unknown".into(), |kib| format!("{:.1} GiB", kib / 1024.0 / 1024.0)));
    add("libtorch version", env!("MRB_LIBTORCH_VERSION").into());
    match cuda_machine() {
        Ok(machine) => add_cuda(&mut add, &machine, CUDA_ARCHITECTURES),
        Err(missing) => add("Is CUDA available", format!("No: {missing}")),
    }
    for name in ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"] {
        if let Ok(value) = std::env::var(name) {
            add(name, value);
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// What upstream prints of CUDA, and whether this program's kernels run on each GPU.
fn add_cuda(add: &mut dyn FnMut(&str, String), machine: &CudaMachine, architectures: &str) {
    let (runtime, driver) = (machine.runtime, machine.driver);
    add("Is CUDA available", "Yes".into());
    add("CUDA version of the kernels", format!("{}.{}", runtime.0, runtime.1));
    add("Kernels for architectures", architectures.into());
    add("CUDA version of the driver", format!("{}.{}", driver.0, driver.1));
    if let Some(version) =
        std::fs::read_to_string("/proc/driver/nvidia/version").ok().as_deref().and_then(driver_version)
    {
        add("NVIDIA driver version", version.into());
    }
    let cudnn = machine.cudnn.map(|(major, minor, patch)| format!("{major}.{minor}.{patch}"));
    add("cuDNN version", cudnn.unwrap_or("not found".into()));
    for (index, device) in machine.devices.iter().enumerate() {
        let (major, minor) = device.capability;
        let has_kernels = if has_kernels_for(architectures, device.capability) {
            "this program has kernels for it".into()
        } else {
            format!("this program has NO kernels for it: build with TORCH_CUDA_ARCH_LIST={major}.{minor}")
        };
        let gib = device.total_memory as f64 / (1u64 << 30) as f64;
        let text = format!("{}, {gib:.1} GiB, compute capability {major}.{minor}; {has_kernels}", device.name);
        add(&format!("GPU {index}"), text);
    }
}

/// The version number in `/proc/driver/nvidia/version`.
fn driver_version(text: &str) -> Option<&str> {
    let is_version = |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.lines().find(|line| line.starts_with("NVRM version:"))?.split_whitespace().find(is_version)
}

fn os() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').into())
}

fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, name) = text.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(name.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::CudaDevice;

    #[test]
    fn the_text_names_versions_threads_and_cuda() {
        let text = collect_env_info();
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
        assert!(text.contains("libtorch threads: "), "{text}");
        assert!(text.contains("libtorch version: 2.11"), "{text}");
        assert!(text.contains("Is CUDA available: "), "{text}");
        assert!(!text.ends_with('\n'));
    }

    #[test]
    fn each_gpu_says_whether_kernels_run_on_it() {
        let gpu = |name: &str, capability| CudaDevice { name: name.into(), total_memory: 80 << 30, capability };
        let machine = CudaMachine {
            runtime: (13, 0),
            driver: (13, 1),
            cudnn: Some((9, 19, 0)),
            devices: vec![gpu("H100", (9, 0)), gpu("V100", (7, 0))],
        };
        let mut lines = Vec::new();
        add_cuda(&mut |name, value| lines.push(format!("{name}: {value}")), &machine, "9.0");
        assert!(lines.contains(&"cuDNN version: 9.19.0".into()), "{lines:?}");
        let h100 = "GPU 0: H100, 80.0 GiB, compute capability 9.0; this program has kernels for it";
        assert!(lines.contains(&h100.into()), "{lines:?}");
        assert!(
            lines.iter().any(|l| l.starts_with("GPU 1: V100") && l.ends_with("TORCH_CUDA_ARCH_LIST=7.0")),
            "{lines:?}"
        );
    }

    #[test]
    fn the_driver_s_file_holds_its_version() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025\nGCC version: 12.3.0";
        assert_eq!(driver_version(text), Some("580.65.06"));
        assert_eq!(driver_version("something else"), None);
    }
}
