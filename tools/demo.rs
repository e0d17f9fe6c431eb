//! Draws detections on images; see [`maskrcnn_benchmark::cli::demo`].
use maskrcnn_benchmark::cli;

fn main() -> std::process::ExitCode {
    cli::exit_code(|| cli::demo(std::env::args_os(), &cli::Registries::default()))
}
