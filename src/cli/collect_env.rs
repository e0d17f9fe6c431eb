//! `collect_env`: what the programs run on.

use anyhow::Result;
use clap::Parser;

use super::output::say;
use super::{parse, CommandLine};
use crate::utils::collect_env::collect_env_info;

/// Prints versions, processor, memory and GPUs, as at the start of a training's log.
#[derive(Debug, Parser)]
#[command(name = "collect_env", version)]
struct Args {}

/// The program `collect_env`.
///
/// # Errors
/// Wrong usage (a [`clap::Error`]).
pub fn collect_env(args: impl CommandLine) -> Result<()> {
    let Args {} = parse(args)?;
    say!("{}", collect_env_info());
    Ok(())
}
