//! Makes the synthetic "shapes" data set; see [`maskrcnn_benchmark::cli::make_shapes`].
use maskrcnn_benchmark::cli;

fn main() -> std::process::ExitCode {
    cli::exit_code(|| cli::make_shapes(std::env::args_os()))
}
