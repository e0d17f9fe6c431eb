//! What the standard library lacks of the operating system.

/// A moment in the machine's time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// As people write it.
    pub year: i32,
    /// 1 to 12.
    pub month: i32,
    /// 1 to 31.
    pub day: i32,
    /// 0 to 23.
    pub hour: i32,
    /// 0 to 59.
    pub minute: i32,
    /// 0 to 60, a leap second included.
    pub second: i32,
}

/// Seconds since the epoch in the machine's time zone, as Python's `time.localtime`.
pub fn local_time(seconds: i64) -> LocalTime {
    let time: libc::time_t = seconds;
    // SAFETY: `tm` is a plain C struct for which all zeroes is a valid value; both pointers are valid for the call.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&time, &mut tm);
        tm
    };
    LocalTime {
        year: tm.tm_year + 1900,
        month: tm.tm_mon + 1,
        day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
    }
}

/// The bytes of a file, read when they are first used. Whoever cuts the file short meanwhile ends the program (SIGBUS),
/// which is why this project replaces files and never changes them in place.
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the whole file.
    ///
    /// # Errors
    /// What the operating system says. An empty file cannot be mapped on every system.
    pub fn new(file: &std::fs::File) -> std::io::Result<Self> {
        // SAFETY: the mapping is private and read-only; that other programs do not truncate the file is stated above.
        Ok(Self(unsafe { memmap2::MmapOptions::new().map_copy_read_only(file)? }))
    }

    /// Gives the memory of bytes back that are not needed soon; used again, they are read again.
    pub fn release(&self, range: std::ops::Range<usize>) {
        let advice = memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: nothing was written to these pages, so the file holds what they hold. Where the system refuses, they
        // stay, which costs memory only.
        let _ = unsafe { self.0.unchecked_advise_range(advice, range.start, range.len()) };
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Waits until no other open file holds the lock, and holds it until `file` is closed (`flock`).
///
/// # Errors
/// What the operating system says, for instance of a file system without locks.
pub fn lock_file(file: &std::fs::File) -> std::io::Result<()> {
    loop {
        match flock(file, libc::LOCK_EX) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// [`lock_file`] without waiting: `false` when another open file holds the lock.
///
/// # Errors
/// As [`lock_file`].
pub fn try_lock_file(file: &std::fs::File) -> std::io::Result<bool> {
    match flock(file, libc::LOCK_EX | libc::LOCK_NB) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

fn flock(file: &std::fs::File, operation: libc::c_int) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for as long as `file` lives.
    match unsafe { libc::flock(file.as_raw_fd(), operation) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Sends a signal to a process that has not been waited for.
///
/// # Errors
/// There is no such process, or it is not ours.
pub fn send_signal(process: u32, signal: i32) -> std::io::Result<()> {
    let process = libc::pid_t::try_from(process).map_err(std::io::Error::other)?;
    // SAFETY: `kill` has no memory preconditions; the number is positive, so it means one process.
    match unsafe { libc::kill(process, signal) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Sends a signal to a group of processes; signal 0 only asks whether there is one.
///
/// # Errors
/// There is no process in the group, or none that is ours.
pub fn send_signal_to_group(group: u32, signal: i32) -> std::io::Result<()> {
    let group = libc::pid_t::try_from(group).ok().filter(|&group| group > 1).ok_or(std::io::ErrorKind::InvalidInput)?;
    // SAFETY: `kill` has no memory preconditions; the number is below -1, so it means one group.
    match unsafe { libc::kill(-group, signal) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Ends the process at once: no destructors, which other threads' work could get in the way of.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_later_is_the_next_day_at_the_same_time() {
        // Two days of winter: no time zone changes its clock between them.
        let (first, second) = (local_time(1_700_000_000), local_time(1_700_086_400));
        assert_eq!(first.year, 2023);
        assert_eq!(first.month, 11);
        assert_eq!(second.day, first.day + 1);
        assert_eq!((first.hour, first.minute, first.second), (second.hour, second.minute, second.second));
        assert_eq!(first.second, 20);
    }
}
