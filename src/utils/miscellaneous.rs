//! Small helpers around files and the process (the original's `utils/miscellaneous.py`).

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Makes a folder and its parents; one that exists is fine.
///
/// # Errors
/// The folder cannot be made.
pub fn mkdir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Writes a file so that a reader sees the old content or the new, never a part: temporary file beside it, then rename.
///
/// # Errors
/// The file cannot be written; what was there before is left.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    written
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Largest amount of memory that the process has held so far, in MiB (Linux: `VmHWM`); `None` where it is not known.
pub fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kib(&status, "VmHWM:").map(|kib| kib / 1024.0)
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
    fn an_atomic_write_replaces_and_leaves_nothing_beside() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("last_checkpoint");
        write_atomically(&path, b"one")?;
        write_atomically(&path, b"two")?;
        assert_eq!(std::fs::read(&path)?, b"two");
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 1);
        let error = write_atomically(&dir.path().join("missing/file"), b"x").unwrap_err();
        assert!(format!("{error:#}").contains("missing/file"), "{error:#}");
        Ok(())
    }
}
