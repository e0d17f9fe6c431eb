//! Prints what the programs run on; see [`maskrcnn_benchmark::cli::collect_env`].
use maskrcnn_benchmark::cli;

fn main() -> std::process::ExitCode {
    cli::exit_code(|| cli::collect_env(std::env::args_os()))
}
