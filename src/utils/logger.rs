//! Log lines as the original writes them (`utils/logger.py`): to stdout and to `log.txt`.
//!
//! Everything logs through the `log` crate; a module path becomes a logger name with dots.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use log::{LevelFilter, Log, Metadata, Record};

use super::progress;
use crate::ffi::system::local_time;

/// Name of the log file in the output folder.
pub const FILE_NAME: &str = "log.txt";

static LOGGER: Logger = Logger { sinks: Mutex::new(Sinks { stdout: false, file: None }) };

struct Logger {
    sinks: Mutex<Sinks>,
}

struct Sinks {
    stdout: bool,
    file: Option<File>,
}

/// Sends the log to stdout and, where `save_dir` is given, to its `log.txt` (appending). Only the process of rank 0
/// writes. A second call replaces the file of the first.
///
/// # Errors
/// The log file cannot be opened, or the program has installed another logger.
pub fn setup_logger(save_dir: Option<&Path>, rank: usize) -> Result<()> {
    let file = match save_dir {
        Some(dir) if rank == 0 => {
            let path = dir.join(FILE_NAME);
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            Some(opened.with_context(|| format!("cannot write the log file {}", path.display()))?)
        }
        _ => None,
    };
    *LOGGER.sinks.lock().unwrap_or_else(PoisonError::into_inner) = Sinks { stdout: rank == 0, file };
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*installed {
        log::set_logger(&LOGGER).map_err(|_| anyhow::anyhow!("another logger is installed already"))?;
        log::set_max_level(LevelFilter::Debug);
        *installed = true;
    }
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // Dependencies only speak up when something is wrong.
        metadata.target().starts_with("maskrcnn_benchmark") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = asctime(now.as_secs() as i64, now.subsec_millis());
        let line = format!("{}\n", line(&time, record.target(), record.level(), &record.args().to_string()));
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed pipe or a full disk must not end the run from inside a log statement.
        if sinks.stdout {
            progress::suspend(|| {
                let mut stdout = std::io::stdout().lock();
                let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
            });
        }
        if let Some(file) = &mut sinks.file {
            let _ = file.write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

fn line(time: &str, target: &str, level: log::Level, message: &str) -> String {
    let level = match level {
        log::Level::Warn => "WARNING",
        other => other.as_str(),
    };
    format!("{time} {} {level}: {message}", target.replace("::", "."))
}

/// Python's `%(asctime)s`.
fn asctime(seconds: i64, milliseconds: u32) -> String {
    let t = local_time(seconds);
    format!("{:04}-{:02}-{:02} {:02}:{:02}:{:02},{milliseconds:03}", t.year, t.month, t.day, t.hour, t.minute, t.second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_originals_form() {
        let text = line("2019-01-31 10:00:00,001", "maskrcnn_benchmark::data::build", log::Level::Warn, "hello");
        assert_eq!(text, "2019-01-31 10:00:00,001 maskrcnn_benchmark.data.build WARNING: hello");
    }

    #[test]
    fn times_have_milliseconds_after_a_comma() {
        let text = asctime(1_700_000_000, 7);
        assert!(text.starts_with("2023-11-1"), "{text}");
        assert!(text.ends_with(":20,007"), "{text}");
    }
}
