//! Trains a model and tests it; see [`maskrcnn_benchmark::cli::train_net`].
use maskrcnn_benchmark::cli;

fn main() -> std::process::ExitCode {
    cli::exit_code(|| cli::train_net(std::env::args_os(), &cli::Registries::default()))
}
