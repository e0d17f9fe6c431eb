//! What the programs print on stdout.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use crate::ffi::system::exit_now;
use crate::utils::miscellaneous::say_error;

/// Prints a line on stdout. Unlike with `println!`, a reader that has seen enough (`| head`) is no error: the program
/// goes on with what else it has to do.
macro_rules! say {
    ($($arguments:tt)*) => {
        $crate::cli::output::say_line(format_args!($($arguments)*))
    };
}
pub(super) use say;

/// What [`say!`] does.
pub(super) fn say_line(line: Arguments) {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            say_error(format_args!("error: cannot write to stdout: {error}"));
            exit_now(1);
        }
        _ => {}
    }
}
