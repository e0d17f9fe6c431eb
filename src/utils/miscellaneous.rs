//! Small helpers around files and the process (the original's `utils/miscellaneous.py`).

use std::any::Any;
use std::fmt::Arguments;
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

/// The text of a panic, as [`std::panic::catch_unwind`] returns it.
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    without_backtrace(text.unwrap_or("unknown reason"))
}

/// A message of libtorch without the stack trace that it appends, nor that of an unwrapped [`anyhow::Error`]; also
/// where tch's methods have unwrapped it.
pub fn without_backtrace(message: &str) -> String {
    // What `unwrap` and `expect` say of the error is its source text, in which a line's end is `\n`.
    let quoted = message.strip_suffix("\")").and_then(|message| message.split_once("Torch(\""));
    let message = match quoted {
        Some((before, text)) => before.trim_start_matches(UNWRAPPED).to_string() + &unescaped(text),
        None => message.to_string(),
    };
    let is_trace = |line: &str| TRACES.iter().any(|beginning| line.starts_with(beginning));
    message.lines().take_while(|line| !is_trace(line)).collect::<Vec<_>>().join("\n").trim_end().to_string()
}

/// How stack traces begin.
const TRACES: [&str; 3] = ["Exception raised from", "frame #", "Stack backtrace:"];

/// What [`Result::unwrap`] says before the error.
const UNWRAPPED: &str = "called `Result::unwrap()` on an `Err` value: ";

/// The text that [`char::escape_debug`] has made of it.
fn unescaped(text: &str) -> String {
    let mut chars = text.chars();
    let next = || {
        let c = chars.next()?;
        if c != '\\' {
            return Some(c);
        }
        Some(match chars.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '0' => '\0',
            'u' => {
                let code: String = chars.by_ref().skip(1).take_while(|&c| c != '}').collect();
                u32::from_str_radix(&code, 16).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            other => other,
        })
    };
    std::iter::from_fn(next).collect()
}

/// Prints a line on stderr. Unlike with [`eprintln!`], a reader that has gone (`2>&1 | head`) ends nothing: what comes
/// after the message is still done.
pub fn say_error(line: Arguments) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
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
    use tch::{Device, Kind, Tensor};

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
        let wrong = || Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let expected = "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)";
        let panic = std::panic::catch_unwind(|| wrong().matmul(&wrong())).expect_err("wrong shapes");
        assert_eq!(panic_message(panic.as_ref()), expected);
        let panic = std::panic::catch_unwind(|| wrong().f_matmul(&wrong()).expect("a product")).expect_err("the same");
        assert_eq!(panic_message(panic.as_ref()), format!("a product: {expected}"));
        let error = wrong().f_matmul(&wrong()).expect_err("the same").to_string();
        assert!(error.contains("frame #"), "{error}");
        assert!(without_backtrace(&error).ends_with(expected), "{error}");
    }

    #[test]
    fn the_text_in_quotes_is_read_back() {
        let text = "\"a\"\t'b'\\n\nü \u{1}\u{301}\u{202e}\0\re";
        let quoted = format!("called `Result::unwrap()` on an `Err` value: {:?}", tch::TchError::Torch(text.into()));
        assert_eq!(without_backtrace(&format!("{quoted}.")), format!("{quoted}."), "it does not end as such");
        assert_eq!(unescaped(&text.escape_debug().to_string()), text);
        assert_eq!(without_backtrace(&quoted), text.lines().collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn other_panics_keep_their_message() {
        assert_eq!(panic_message(&"a word"), "a word");
        assert_eq!(panic_message(&"two\nlines".to_string()), "two\nlines");
        assert_eq!(panic_message(&"fits: no\n\nStack backtrace:\n   0: main"), "fits: no");
        assert_eq!(panic_message(&1), "unknown reason");
    }
}
