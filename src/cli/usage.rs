//! What may be meant by a command line that is wrong: options of similar programs, words in the wrong place.

use anyhow::{bail, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Puts a tip of ours in the place of clap's, which is to give an unknown option as a value: no value here is one.
pub(super) fn with_tip(mut error: clap::Error, program: &str) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    error.remove(ContextKind::Suggested);
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return error };
    if let Some(tip) = tip(program, option) {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// What an option of Detectron2, of `torch.distributed.launch` or of another program of ours is here.
fn tip(program: &str, option: &str) -> Option<&'static str> {
    Some(match (program, option.split('=').next().unwrap_or(option)) {
        ("launch", "--use_env" | "--use-env") => "leave it out: the programs find their places in the environment",
        ("train_net" | "test_net", "--num-gpus" | "--num_gpus") => {
            "for several processes: launch --nproc_per_node NUMBER, then the program and its arguments"
        }
        ("train_net", "--eval-only") => "use test_net",
        ("train_net", "--resume") => "leave it out: a run goes on from OUTPUT_DIR/last_checkpoint by itself",
        ("train_net", "--weights" | "--ckpt") => "give MODEL.WEIGHT FILE after the options",
        ("test_net", "--weights") => "use --ckpt FILE",
        ("demo", "--ckpt") => "use --weights FILE",
        ("demo", "--input") => "leave it out: images are named without an option",
        ("train_net" | "test_net" | "demo" | "benchmark", "--opts") => {
            "leave it out: KEY VALUE … come last, without an option"
        }
        _ => return None,
    })
}

/// Recognises words that stand where a key should and are none.
///
/// # Errors
/// Such a word; says where it belongs.
pub(super) fn check_keys(overrides: &[String]) -> Result<()> {
    for word in overrides.iter().step_by(2) {
        let ends_in = |endings: &[&str]| endings.iter().any(|ending| word.ends_with(ending));
        if word.starts_with("--") {
            bail!("{word} stands behind {}: options come before the first KEY VALUE", overrides[0]);
        }
        if let Some((key, value)) = word.split_once('=') {
            bail!("{word} is no KEY: write {key} {value}, with a space");
        }
        if ends_in(&[".yaml", ".yml"]) {
            bail!("{word} is no KEY: a configuration file is given before the first KEY, as --config-file {word}");
        }
        if ends_in(&[".pth", ".pkl", ".safetensors"]) {
            bail!("{word} is no KEY: weights are given as MODEL.WEIGHT {word} (to test_net also as --ckpt {word}, before)");
        }
    }
    Ok(())
}
