//! What the program runs on, as text for the log (the original's `utils/collect_env.py`).

use std::fmt::Write;

use super::miscellaneous::kib;

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
    add("Is CUDA available", if tch::Cuda::is_available() { "Yes" } else { "No" }.into());
    if tch::Cuda::is_available() {
        add("CUDA devices", tch::Cuda::device_count().to_string());
    }
    for name in ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"] {
        if let Ok(value) = std::env::var(name) {
            add(name, value);
        }
    }
    text.truncate(text.trim_end().len());
    text
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
    #[test]
    fn the_text_names_version_and_threads() {
        let text = super::collect_env_info();
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
        assert!(text.contains("libtorch threads: "), "{text}");
        assert!(!text.ends_with('\n'));
    }
}
