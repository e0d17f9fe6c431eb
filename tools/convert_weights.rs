//! Converts weights between file formats; see [`maskrcnn_benchmark::cli::convert_weights`].
use maskrcnn_benchmark::cli;

fn main() -> std::process::ExitCode {
    cli::exit_code(|| cli::convert_weights(std::env::args_os()))
}
