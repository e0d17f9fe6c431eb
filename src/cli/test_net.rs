//! `test_net`: evaluates a model (the original's `tools/test_net.py`).

use anyhow::Result;
use clap::Parser;

use super::setup::{Program, TARGET};
use super::{parse, BackendArgs, CommandLine, ConfigArgs, DistributedArgs, Registries};
use crate::checkpoint::DetectronCheckpointer;
use crate::utils::comm::destroy_process_group;

/// Evaluates an object detection model.
#[derive(Debug, Parser)]
#[command(name = "test_net", version)]
struct Args {
    #[command(flatten)]
    distributed: DistributedArgs,

    #[command(flatten)]
    backend: BackendArgs,

    /// The checkpoint to test; by default the one that OUTPUT_DIR/last_checkpoint names, else MODEL.WEIGHT.
    #[arg(long, value_name = "FILE")]
    ckpt: Option<String>,

    /// Makes it an error when weights do not fit the model, instead of skipping them.
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

/// The program `test_net`. Writes predictions and results to `OUTPUT_DIR/inference/<data set>/`.
///
/// # Errors
/// Wrong usage (a [`clap::Error`]), or anything that keeps the evaluation from its end; the message says what to do.
pub fn test_net(args: impl CommandLine, registries: &Registries) -> Result<()> {
    let args: Args = parse(args)?;
    let program = Program::start(&args.config, (&args.distributed, &args.backend), &args, false)?;
    log::info!(target: TARGET, "Running with config:\n{}", program.cfg.to_node());
    let (parameters, model) = program.build_model(registries)?;
    let model = args.backend.format(model)?;
    let checkpointer =
        DetectronCheckpointer::new(&program.cfg, &parameters, program.output_dir.as_deref()).strict(args.strict);
    let loaded = match &args.ckpt {
        Some(ckpt) => checkpointer.weight_option("--ckpt").load(Some(ckpt), false)?,
        None => checkpointer.load(Some(&program.cfg.model.weight), true)?,
    };
    if loaded.file.is_none() {
        log::warn!(
            target: TARGET,
            "there is no {} and MODEL.WEIGHT is empty: the weights are random. --ckpt FILE names others",
            program.output_dir.clone().unwrap_or_default().join("last_checkpoint").display()
        );
    }
    program.run_test(&model, registries)?;
    destroy_process_group();
    Ok(())
}
