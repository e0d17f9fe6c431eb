//! The training loop (the original's `engine/trainer.py`).

use std::time::Instant;

use anyhow::{anyhow, Context, Result};
use tch::{Device, Kind, Tensor};

use super::device::peak_memory_mib;
use super::inference::inference;
use super::loss_history::LossHistory;
use super::training_state::{checkpoint_name, random_state, set_random_state, TrainingState};
use crate::config::Config;
use crate::data::{Batch, DataLoader};
use crate::ffi::Reducer;
use crate::modeling::detector::{GeneralizedRcnn, Losses};
use crate::solver::GradScaler;
use crate::structures::boxlists_to_device;
use crate::utils::comm::{self, Phase};
use crate::utils::metric_logger::MetricLogger;
use crate::utils::miscellaneous::without_backtrace;
use crate::utils::progress::Progress;
use crate::utils::termination::on_termination;
use crate::utils::timer::time_str;

const TARGET: &str = "maskrcnn_benchmark.trainer";
/// Iterations between two lines of the log.
const LOG_PERIOD: i64 = 20;

/// What a training works on.
pub struct Training<'a> {
    /// The configuration.
    pub cfg: &'a Config,
    /// Its parameters are those that `state` changes.
    pub model: &'a GeneralizedRcnn,
    /// Where the model is, and images go to.
    pub device: Device,
    /// Batches until `SOLVER.MAX_ITER`.
    pub data_loader: &'a DataLoader,
    /// Evaluated every `SOLVER.TEST_PERIOD` iterations.
    pub data_loader_val: Option<&'a DataLoader>,
    /// Optimizer, scheduler and place in the data, which checkpoints hold.
    pub state: &'a TrainingState,
}

/// Trains until `SOLVER.MAX_ITER`: iteration n with the rate of scheduler position n - 1. Checkpoints are written every
/// `SOLVER.CHECKPOINT_PERIOD` iterations, at the end, and at SIGINT and SIGTERM to any process of the job (the state
/// after the last completed iteration). The processes of a job train together, each on its share of a batch; rank 0
/// writes. When one of them is lost, rank 0 writes that state as well where it is on the CPU.
///
/// # Errors
/// An unreadable image, a loss or a weight that is not finite (names iteration, images and terms; nothing is saved
/// then), a checkpoint that cannot be written, or a process of the job that is lost.
pub fn do_train(training: &Training) -> Result<()> {
    let Training { cfg, data_loader, state, .. } = training;
    let start = state.lock().iteration;
    let max_iter = data_loader.len() as i64;
    log::info!(target: TARGET, "Start training");
    let mut meters = MetricLogger::new("  ");
    let mut history = LossHistory::default();
    let mut progress = Progress::new(TARGET, "iterations", max_iter.max(0) as u64, true).starting_at(start as u64);
    let watched = TrainingState::clone(state);
    let _guard = on_termination(move |signal| save_at_signal(&watched, signal))?;

    let mut reducer = comm::reducer(&state.lock().optimizer.parameters())?;

    let begin = Instant::now();
    let mut end = Instant::now();
    let mut iteration = start;
    let mut batches = data_loader.iter();
    while iteration < max_iter {
        comm::begin_iteration(iteration + 1);
        let Some(batch) = batches.next().transpose()? else { break };
        let data_time = end.elapsed().as_secs_f64();
        iteration += 1;
        let due = Due::at(cfg, iteration, max_iter);
        step(training, reducer.as_mut(), iteration, &batch, |losses| {
            history.push(iteration, &batch.indices, losses);
            // On the CPU nothing is gained by waiting; and most runs that fail do so at once.
            if training.device == Device::Cpu || iteration == start + 1 || due.log || due.checkpoint {
                history.settle(&mut meters, |images| image_ids(data_loader, images))?;
            }
            Ok(())
        })?;

        meters.update("time", end.elapsed().as_secs_f64());
        meters.update("data", data_time);
        end = Instant::now();
        progress.inc(1);
        if due.log {
            log_line(training, "", iteration, max_iter, &meters, &meters);
        }
        if due.checkpoint {
            save(state, &checkpoint_name(iteration), iteration)?;
        }
        if let (Some(data_loader_val), true) = (training.data_loader_val, due.validation) {
            let meters_val = validate(training, data_loader_val)?;
            log_line(training, "[Validation]: ", iteration, max_iter, &meters_val, &meters);
        }
        if iteration == max_iter {
            save(state, "model_final", iteration)?;
        }
    }
    if iteration == start {
        log::info!(target: TARGET, "nothing is left to train: {start} of {max_iter} iterations are done");
    }
    let seconds = begin.elapsed().as_secs_f64();
    let per_iteration = seconds / (iteration - start).max(1) as f64;
    log::info!(target: TARGET, "Total training time: {} ({per_iteration:.4} s / it)", time_str(seconds));
    Ok(())
}

/// What comes after an iteration.
struct Due {
    log: bool,
    checkpoint: bool,
    validation: bool,
}

impl Due {
    fn at(cfg: &Config, iteration: i64, max_iter: i64) -> Self {
        let every = |period: i64| period > 0 && iteration % period == 0;
        Self {
            log: every(LOG_PERIOD) || iteration == max_iter,
            checkpoint: every(cfg.solver.checkpoint_period),
            validation: every(cfg.solver.test_period),
        }
    }
}

/// Forward, backward and update. `look` sees the losses before anything changes.
fn step(
    training: &Training,
    mut reducer: Option<&mut Reducer>,
    iteration: i64,
    batch: &Batch,
    look: impl FnOnce(&Losses) -> Result<()>,
) -> Result<()> {
    let state = training.state;
    comm::enter(Phase::Forward);
    if let Some(reducer) = &mut reducer {
        // In the second iteration the processes agree on new buckets.
        comm::together("preparing an iteration", || reducer.prepare_for_forward())?;
    }
    let losses = losses(training, batch)?;
    look(&losses)?;
    let scale = {
        let mut completed = state.lock();
        completed.optimizer.zero_grad();
        completed.scaler.as_ref().map(GradScaler::scale)
    };
    let loss = total(&losses);
    let loss = scale.map_or_else(|| loss.shallow_clone(), |scale| &loss * scale);
    let context = || format!("iteration {iteration}");
    comm::enter(Phase::Backward);
    backward(&loss, reducer).with_context(context)?;
    comm::enter(Phase::Update);
    if let Some(scale) = state.step().with_context(context)? {
        log::info!(target: TARGET, "Gradient overflow: iteration {iteration} is skipped, the loss scale is now {scale}");
    }
    Ok(())
}

/// Computes the gradients of `loss`; with a reducer, their means over the processes.
///
/// # Errors
/// There is not enough memory, a process of the job is lost, or a parameter did not take part in the loss.
pub fn backward(loss: &Tensor, reducer: Option<&mut Reducer>) -> Result<()> {
    let run = || loss.f_backward().map_err(|error| anyhow!(without_backtrace(&error.to_string()).replace('\n', " ")));
    let Some(reducer) = reducer else { return run() };
    reducer.prepare_for_backward()?;
    comm::explain("averaging the gradients", run())?;
    reducer.check_finalized()
}

fn losses(training: &Training, batch: &Batch) -> Result<Losses> {
    let images = batch.images.to_device(training.device);
    let targets = boxlists_to_device(&batch.targets, training.device);
    training.model.losses(&images, &targets)
}

/// The sum of all terms.
pub fn total(losses: &Losses) -> Tensor {
    losses
        .iter()
        .map(|(_, loss)| loss.shallow_clone())
        .reduce(|sum, loss| sum + loss)
        .unwrap_or_else(|| Tensor::from(0f32))
}

fn image_ids(data_loader: &DataLoader, images: &[usize]) -> String {
    let dataset = data_loader.dataset();
    let name = |&index: &usize| match dataset.image_info(index) {
        Ok(info) => format!("{} ({})", info.id, info.file_name),
        Err(_) => format!("number {index}"),
    };
    images.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Losses and evaluation on the validation data. Random numbers drawn here do not change the training.
fn validate(training: &Training, data_loader_val: &DataLoader) -> Result<MetricLogger> {
    let Training { cfg, model, device, .. } = training;
    let random = random_state(*device)?;
    inference(cfg, model, data_loader_val, "[Validation]", *device, None)?;
    comm::enter(Phase::Testing);
    let (mut names, mut values): (Vec<String>, Vec<u8>) = Default::default();
    {
        let _no_grad = tch::no_grad_guard();
        for batch in data_loader_val.iter() {
            let (row_names, row): (Vec<String>, Vec<Tensor>) = losses(training, &batch?)?.into_iter().unzip();
            let row = Vec::<f64>::try_from(Tensor::stack(&row, 0).to_kind(Kind::Double))?;
            if row.iter().all(|value| value.is_finite()) {
                let sum: f64 = row.iter().sum();
                values.extend(std::iter::once(sum).chain(row).flat_map(f64::to_le_bytes));
            }
            names = std::iter::once("loss".to_string()).chain(row_names).collect();
        }
    }
    set_random_state(&random, *device)?;
    let mut meters = MetricLogger::new("  ");
    // Processes may have different numbers of batches, so their values come together at the end.
    for values in comm::gather_bytes(values)?.unwrap_or_default() {
        for (i, bytes) in values.chunks_exact(8).enumerate() {
            let bytes = bytes.try_into().context("a value has 8 bytes")?;
            meters.update(&names[i % names.len()], f64::from_le_bytes(bytes));
        }
    }
    Ok(meters)
}

fn log_line(
    training: &Training,
    what: &str,
    iteration: i64,
    max_iter: i64,
    meters: &MetricLogger,
    times: &MetricLogger,
) {
    let per_iteration = times.get("time").map_or(0.0, |time| time.global_avg());
    let eta = time_str((per_iteration * (max_iter - iteration) as f64).floor());
    let lr = training.state.lock().optimizer.lr();
    let memory = peak_memory_mib(training.device).unwrap_or(0.0);
    let delimiter = meters.delimiter();
    let what = if what.is_empty() { String::new() } else { format!("{what}{delimiter}") };
    log::info!(
        target: TARGET,
        "{what}eta: {eta}{delimiter}iter: {iteration}{delimiter}{meters}{delimiter}lr: {lr:.6}{delimiter}max mem: {memory:.0}"
    );
}

fn save(state: &TrainingState, name: &str, iteration: i64) -> Result<()> {
    comm::enter(Phase::Checkpoint);
    state.save(name).with_context(|| format!("saving the checkpoint {name} of iteration {iteration}"))?;
    Ok(())
}

fn save_at_signal(state: &TrainingState, signal: &str) {
    match state.save_if_new() {
        Ok(Some(path)) => {
            log::warn!(target: TARGET, "{signal}: stopped; the next start goes on from {}", path.display())
        }
        Ok(None) => log::warn!(target: TARGET, "{signal}: stopped; there is nothing new to save"),
        Err(error) => log::error!(target: TARGET, "{signal}: stopped; the checkpoint could not be written: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::utils::out_of_memory::is_out_of_memory;

    #[test]
    fn the_terms_are_added_up() {
        let losses = [("loss_classifier", 1.5), ("loss_mask", 0.5)];
        let losses: Losses = losses.iter().map(|(name, value)| (name.to_string(), Tensor::from(*value))).collect();
        assert_eq!(total(&losses).double_value(&[]), 2.0);
    }

    /// The gradient of what is one number many times has no place in any memory.
    #[test]
    fn gradients_without_memory_are_an_error() {
        let x = Tensor::ones([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let loss = x.expand([1 << 50], false).narrow(0, 0, 1).sum(Kind::Float);
        let error = backward(&loss, None).expect_err("too much").to_string();
        assert!(is_out_of_memory(&error) && !error.contains("frame #"), "{error}");
    }
}
