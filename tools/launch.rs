//! Starts the processes of a job; see [`maskrcnn_benchmark::cli::launch`].
use maskrcnn_benchmark::cli;

fn main() -> std::process::ExitCode {
    cli::exit_code(|| cli::launch(std::env::args_os()))
}
