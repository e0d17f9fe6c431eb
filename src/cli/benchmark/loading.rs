//! `benchmark --loading`: how long a file of weights takes into a model, and how much memory beside the model.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use super::report::median;
use super::{Args, Registries};
use crate::checkpoint::{write_file, DetectronCheckpointer, Dict, ModelState, Value};
use crate::cli::output::say;
use crate::config::Config;
use crate::engine::device::parse_device;
use crate::layers::Parameters;
use crate::modeling::detector::build_detection_model;
use crate::utils::atomic_file::write_atomically;
use crate::utils::miscellaneous::{peak_memory_mib, restart_peak_memory};

/// Bytes of a megabyte, as the sizes of files are given.
const MB: f64 = 1e6;

/// Loads `MODEL.WEIGHT`, or the model's own random weights from a temporary file, again and again.
///
/// # Errors
/// A configuration or weights that cannot be used, a report that cannot be written.
pub(super) fn loading(args: &Args, cfg: &Config, registries: &Registries) -> Result<()> {
    let parameters = Parameters::new(parse_device(&cfg.model.device)?);
    build_detection_model(cfg, &parameters.root(), &registries.models)?;
    let file = match cfg.model.weight.as_str() {
        "" => WeightFile::temporary(&parameters)?,
        weight => WeightFile { path: weight.into(), temporary: false },
    };
    let tensors: Vec<f64> = parameters
        .state()
        .iter()
        .filter(|entry| entry.alias_of.is_none())
        .map(|entry| (entry.tensor.numel() * entry.tensor.kind().elt_size_in_bytes()) as f64 / MB)
        .collect();
    let checkpointer = DetectronCheckpointer::new(cfg, &parameters, None);
    let (mut seconds, mut beside) = (Vec::new(), Vec::new());
    for run in 0..args.warmup + args.runs {
        let before = restart_peak_memory();
        let start = Instant::now();
        checkpointer.load_file(&file.path).with_context(|| format!("loading {}", file.path.display()))?;
        let elapsed = start.elapsed().as_secs_f64();
        if run >= args.warmup {
            seconds.push(elapsed);
            beside.extend(before.zip(peak_memory_mib()).map(|(before, peak)| peak - before));
        }
    }
    let file_mb = std::fs::metadata(&file.path)?.len() as f64 / MB;
    let (model_mb, largest_mb) = (tensors.iter().sum::<f64>(), tensors.iter().copied().fold(0.0, f64::max));
    let beside_mib = (!beside.is_empty()).then(|| beside.iter().copied().fold(0.0, f64::max));
    say!("{}: {file_mb:.1} MB into a model of {model_mb:.1} MB", file.path.display());
    say!("{} tensors, the largest {largest_mb:.1} MB", tensors.len());
    let (least, most) = seconds.iter().fold((f64::MAX, 0f64), |(a, b), &s| (a.min(s), b.max(s)));
    let load = median(&seconds);
    say!("loading: {load:.3} s (median of {}; {least:.3} to {most:.3})", seconds.len());
    match beside_mib {
        Some(mib) => say!("memory beside the model, at the peak of any run: {mib:.1} MiB"),
        None => say!("memory: not known on this system"),
    }
    let Some(path) = &args.json else { return Ok(()) };
    let report = json!({
        "load_s": seconds,
        "file_mb": file_mb,
        "model_mb": model_mb,
        "largest_tensor_mb": largest_mb,
        "peak_beside_model_mib": beside_mib,
    });
    write_atomically(path, &serde_json::to_vec_pretty(&report)?)
}

struct WeightFile {
    path: PathBuf,
    temporary: bool,
}

impl WeightFile {
    fn temporary(parameters: &Parameters) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("maskrcnn_benchmark_weights.{}.pth", std::process::id()));
        let mut file = Dict::new();
        file.insert("model", ModelState::new(parameters).state_dict()?);
        write_file(&path, &Value::Dict(file))?;
        Ok(Self { path, temporary: true })
    }
}

impl Drop for WeightFile {
    fn drop(&mut self) {
        if self.temporary {
            // What is left of it lies in the system's folder for such files.
            let _ = std::fs::remove_file(Path::new(&self.path));
        }
    }
}
