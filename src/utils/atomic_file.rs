//! Files that appear complete or not at all, and what is left of them when a process is killed while it writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::ffi::system::{lock_file, try_lock_file};

/// What stands in a temporary file's name between the file that it is to become and who writes it:
/// `MACHINE-PROCESS.tmp`.
const MARK: &str = ".unfinished-";

/// Locks of another machine are not seen on every file system: its files count as left behind when nothing has been
/// written to them for so long.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Writes a file so that a reader sees the old content or the new, never a part.
///
/// # Errors
/// The file cannot be written; what was there before is left.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    atomically(path, |mut file, _| Ok(file.write_all(content)?))
}

/// Gives `fill` a temporary file beside `path` (and its name), which becomes `path` once everything is on the disk: a
/// crash at any moment leaves the earlier file of that name whole. What a killed process leaves of the temporary file,
/// [`remove_leftovers`] removes.
///
/// # Errors
/// What `fill` or the file system says (a full disk included); the earlier file is left, the temporary one is removed.
/// Also if the folder cannot be written to the disk: the new file is there then.
pub fn atomically<T>(path: &Path, fill: impl FnOnce(&File, &Path) -> Result<T>) -> Result<T> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("{MARK}{}-{}.tmp", this_machine(), std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || -> Result<T> {
        let file = create_locked(&temporary)?;
        let result = fill(&file, &temporary)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(result)
    };
    let result = write()
        // The error that matters is the first one.
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .with_context(|| format!("cannot write {}; an earlier file of that name is untouched", path.display()))?;
    // The rename itself is on the disk once the folder is.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network and user-space file systems know no such thing, and say so.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {}
        synchronised => synchronised.with_context(|| {
            format!("{} is written, but a crash now may undo it: cannot synchronise its folder", path.display())
        })?,
    }
    Ok(result)
}

/// Removes the temporary files of [`atomically`] in `folder` whose process has ended, and logs their names. A process
/// holds a lock on the file that it writes, which the system takes from it however it ends. Files of other machines
/// that share the folder must also be a day old; files of other names are never touched.
pub fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let here = this_machine();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(machine) = name.to_str().and_then(writing_machine) else { continue };
        let path = entry.path();
        match remove_if_left(&path, machine == here) {
            Ok(true) => log::info!("Removed {}: its process ended while it wrote", path.display()),
            Ok(false) => {}
            // Its process has finished it, or another one has removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                log::warn!("{} seems to be left of a process, but cannot be removed: {error}", path.display())
            }
        }
    }
}

/// The machine whose process writes the temporary file of that name; `None` for other files.
fn writing_machine(name: &str) -> Option<&str> {
    let (file, writer) = name.strip_suffix(".tmp")?.rsplit_once(MARK)?;
    let (machine, process) = writer.rsplit_once('-')?;
    (!file.is_empty() && !machine.is_empty() && process.parse::<u32>().is_ok()).then_some(machine)
}

fn remove_if_left(path: &Path, is_here: bool) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(false);
    }
    // Some file systems lock only what is open for writing.
    let file = OpenOptions::new().write(true).open(path)?;
    let is_old = file.metadata()?.modified()?.elapsed().is_ok_and(|age| age > ABANDONED);
    let is_left = match try_lock_file(&file) {
        Ok(is_free) => is_free && (is_here || is_old),
        // A file system without locks.
        Err(_) => is_old,
    };
    // Between opening and locking its process may have finished it, and begun another one.
    if !is_left || !is_same(&file, path)? {
        return Ok(false);
    }
    fs::remove_file(path)?;
    Ok(true)
}

/// An empty file that is locked until it is closed, where the file system has locks.
fn create_locked(path: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let _ = lock_file(&file);
        // Whoever removes leftovers may have been faster.
        match is_same(&file, path) {
            Ok(true) => return file.set_len(0).map(|()| file),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the open file is still the one of that name.
fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let (one, other) = (file.metadata()?, fs::symlink_metadata(path)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// The machine's name.
pub(super) fn this_machine() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "machine" } else { name }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_and_leaves_nothing_beside() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("last_checkpoint");
        write_atomically(&path, b"one")?;
        write_atomically(&path, b"two")?;
        assert_eq!(fs::read(&path)?, b"two");
        assert_eq!(fs::read_dir(dir.path())?.count(), 1);
        let error = write_atomically(&dir.path().join("missing/file"), b"x").unwrap_err();
        assert!(format!("{error:#}").contains("missing/file"), "{error:#}");
        let error = atomically(&path, |mut file, _| -> Result<()> {
            file.write_all(b"half")?;
            anyhow::bail!("the rest does not come")
        });
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("last_checkpoint") && error.contains("the rest does not come"), "{error}");
        assert_eq!(fs::read(&path)?, b"two");
        assert_eq!(fs::read_dir(dir.path())?.count(), 1, "the temporary file is gone");
        Ok(())
    }

    #[test]
    fn only_what_ended_processes_left_is_removed() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let here = this_machine();
        let make = |name: String, days: u64| -> Result<String> {
            let file = File::create(dir.path().join(&name))?;
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(days * 25 * 60 * 60))?;
            Ok(name)
        };
        let left = make(format!("model_0000004.pth{MARK}{here}-4000000.tmp"), 0)?;
        let of_another_life = make(format!("last_checkpoint{MARK}{here}-{}.tmp", std::process::id()), 0)?;
        let old = make(format!("model_0000004.pth{MARK}other-node.cluster-17.tmp"), 1)?;
        let kept = [
            make(format!("model_0000004.pth{MARK}other-node.cluster-18.tmp"), 0)?,
            make(format!("notes{MARK}{here}-draft.tmp"), 2)?,
            make(format!("{MARK}{here}-1.tmp"), 2)?,
            make("model_0000004.pth.4000000.tmp".into(), 2)?,
            make("model_0000004.pth".into(), 2)?,
        ];
        let folder = format!("folder{MARK}{here}-1.tmp");
        fs::create_dir(dir.path().join(&folder))?;
        let mut beside = String::new();
        atomically(&dir.path().join("model_0000006.pth"), |mut file, temporary| {
            file.write_all(b"half")?;
            remove_leftovers(dir.path());
            beside = temporary.file_name().unwrap_or_default().to_string_lossy().into_owned();
            assert!(temporary.exists(), "the file of a running process");
            Ok(file.write_all(b" and half")?)
        })?;
        assert_eq!(writing_machine(&beside), Some(&*here));
        assert_eq!(fs::read(dir.path().join("model_0000006.pth"))?, b"half and half");
        for gone in [left, of_another_life, old] {
            assert!(!dir.path().join(&gone).exists(), "{gone}");
        }
        for kept in kept.iter().chain([&folder]) {
            assert!(dir.path().join(kept).exists(), "{kept}");
        }
        remove_leftovers(&dir.path().join("missing"));
        Ok(())
    }
}
