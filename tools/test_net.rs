//! Evaluates a model; see [`maskrcnn_benchmark::cli::test_net`].
use maskrcnn_benchmark::cli;

fn main() -> std::process::ExitCode {
    cli::exit_code(|| cli::test_net(std::env::args_os(), &cli::Registries::default()))
}
