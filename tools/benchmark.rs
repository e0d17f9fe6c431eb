//! Times a model phase by phase; see [`maskrcnn_benchmark::cli::benchmark`].
use maskrcnn_benchmark::cli;

fn main() -> std::process::ExitCode {
    cli::exit_code(|| cli::benchmark(std::env::args_os(), &cli::Registries::default()))
}
