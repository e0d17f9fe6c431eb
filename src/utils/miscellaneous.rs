//! Small helpers around files and the process (the original's `utils/miscellaneous.py`).

use std::any::Any;
use std::path::Path;

use anyhow::{Context, Result};

/// Makes a folder and its parents; one that exists is fine.
///
/// # Errors
/// The folder cannot be made.
pub fn mkdir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// The text of a panic, as [`std::panic::catch_unwind`] returns it.
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    without_backtrace(text.unwrap_or("unknown reason"))
}

/// A message of libtorch without the stack trace of its own that it appends.
pub fn without_backtrace(message: &str) -> String {
    let lines = message.lines().take_while(|line| !line.starts_with("Exception raised from"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Largest amount of memory that the process has held so far, in MiB (Linux: `VmHWM`); `None` where it is not known.
pub fn peak_memory_mib() -> Option<f64> {
    status_mib("VmHWM:")
}

/// Memory that the process holds now, in MiB (Linux: `VmRSS`); [`peak_memory_mib`] counts anew from here. `None` where
/// the system does not do this.
pub fn restart_peak_memory() -> Option<f64> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    status_mib("VmRSS:")
}

fn status_mib(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kib(&status, name).map(|kib| kib / 1024.0)
}

/// The number of a `Name:   123 kB` line of a /proc file.
pub(super) fn kib(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_proc() {
        assert_eq!(kib("Name:\tx\nVmHWM:\t  2048 kB\n", "VmHWM:"), Some(2048.0));
        assert_eq!(kib("Name:\tx\n", "VmHWM:"), None);
        #[cfg(target_os = "linux")]
        assert!(peak_memory_mib().is_some_and(|mib| mib > 1.0));
    }

    #[test]
    fn panics_and_messages_of_libtorch_have_no_backtrace() {
        let panic = std::panic::catch_unwind(|| {
            std::panic::resume_unwind(Box::new("a size\nis wrong\nException raised from f\nframe #0".to_string()))
        });
        assert_eq!(panic_message(panic.unwrap_err().as_ref()), "a size\nis wrong");
        assert_eq!(panic_message(&"a word"), "a word");
        assert_eq!(panic_message(&1), "unknown reason");
    }
}
