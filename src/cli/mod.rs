//! What the programs do, callable from a user's own `main`.
//!
//! Each program is one function; [`exit_code`] turns its result into what the shell sees. A `main` of one's own, with
//! data sets or heads of one's own, is two lines:
//!
//! ```no_run
//! use maskrcnn_benchmark::cli::{exit_code, train_net, Registries};
//!
//! fn main() -> std::process::ExitCode {
//!     let registries = Registries::default(); // and what is to be added to it
//!     exit_code(|| train_net(std::env::args_os(), &registries))
//! }
//! ```

mod args;
mod benchmark;
mod collect_env;
mod convert_weights;
mod demo;
mod launch;
mod make_shapes;
mod output;
mod registries;
mod setup;
mod test_net;
mod train_net;
mod usage;

use std::ffi::OsString;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Once;

use anyhow::{anyhow, Error, Result};

pub use args::{parse, BackendArgs, ConfigArgs, DistributedArgs, Switch};
pub use benchmark::benchmark;
pub use collect_env::collect_env;
pub use convert_weights::convert_weights;
pub use demo::demo;
pub use launch::launch;
pub use make_shapes::make_shapes;
pub use registries::Registries;
pub use test_net::test_net;
pub use train_net::train_net;

use crate::ffi::system::exit_now;
use crate::utils::comm::{end_with_error, get_world_size, leave_with_error};
use crate::utils::miscellaneous::{panic_message, say_error};
use crate::utils::out_of_memory;

/// Runs a program: one message on stderr for an error, and the exit code (0 fine, 1 error, 2 wrong usage). Of several
/// processes each says its rank; the error is also left in the file that `TORCHELASTIC_ERROR_FILE` names. A panic is a
/// bug (code 101), but for libtorch's when it gets no memory: that is an error like others.
pub fn exit_code(program: impl FnOnce() -> Result<()>) -> ExitCode {
    install_panic_hook();
    let error = match catch_unwind(AssertUnwindSafe(program)) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => error,
        Err(panic) => {
            let message = panic_message(panic.as_ref());
            if !out_of_memory::is_out_of_memory(&message) {
                // The hook has printed it.
                leave_with_error(&format!("internal error: {message}"));
                exit_now(101);
            }
            anyhow!(message)
        }
    };
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // Help and version are no errors: clap sends them to stdout, with code 0.
        let _ = usage.print();
        return ExitCode::from(usage.exit_code() as u8);
    }
    if let Some(failure) = error.downcast_ref::<launch::JobFailed>() {
        say_error(format_args!("error: {failure}"));
        return ExitCode::from(failure.status);
    }
    let message = in_words(&error);
    if get_world_size() > 1 {
        end_with_error(&message);
    }
    say_error(format_args!("error: {message}"));
    leave_with_error(&message);
    ExitCode::FAILURE
}

/// The error with what led to it; where memory is missing, with what to do about it.
fn in_words(error: &Error) -> String {
    let Some(explained) = out_of_memory::explain(&error.root_cause().to_string()) else { return format!("{error:#}") };
    let mut words: Vec<String> = error.chain().map(ToString::to_string).collect();
    words.pop();
    // The iteration, for example, is in both.
    words.retain(|context| !explained.contains(context));
    words.push(explained);
    words.join(": ")
}

/// A panic is a bug: says so in a few words instead of the language's own message. Where it is a lack of memory,
/// [`exit_code`] says so; only that of another thread may be known to nobody else.
fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
            let message = panic_message(info.payload());
            if out_of_memory::is_out_of_memory(&message) {
                let thread = std::thread::current();
                if let Some(name) = thread.name().filter(|&name| name != "main") {
                    say_error(format_args!("thread {name}: {message}"));
                }
                return;
            }
            say_error(format_args!("internal error{place}: {message}"));
            say_error(format_args!(
                "This is a bug of maskrcnn-benchmark; please report it with the command and its log."
            ));
        }));
    });
}

/// The command line of a program: its name first, as in [`std::env::args_os`].
pub trait CommandLine: IntoIterator<Item = OsString> {}
impl<T: IntoIterator<Item = OsString>> CommandLine for T {}
