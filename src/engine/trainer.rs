//! The training loop (the original's `engine/trainer.py`).

use std::time::Instant;

use anyhow::{anyhow, bail, Context, Result};
use tch::{Device, Tensor};

use super::inference::inference;
use super::training_state::{checkpoint_name, TrainingState};
use crate::config::Config;
use crate::data::{Batch, DataLoader};
use crate::ffi::{Generator, Reducer};
use crate::modeling::detector::{GeneralizedRcnn, Losses};
use crate::utils::comm::{self, Phase};
use crate::utils::metric_logger::MetricLogger;
use crate::utils::miscellaneous::peak_memory_mib;
use crate::utils::progress::Progress;
use crate::utils::termination::on_termination;
use crate::utils::timer::time_str;

const TARGET: &str = "maskrcnn_benchmark.trainer";
/// Iterations between two lines of the log.
const LOG_PERIOD: i64 = 20;

/// What a training works on.
pub struct Training<'a> {
    pub cfg: &'a Config,
    pub model: &'a GeneralizedRcnn,
    pub device: Device,
    pub data_loader: &'a DataLoader,
    /// Evaluated every `SOLVER.TEST_PERIOD` iterations.
    pub data_loader_val: Option<&'a DataLoader>,
    pub state: &'a TrainingState,
}

/// Trains until `SOLVER.MAX_ITER`: iteration n with the rate of scheduler position n - 1. Checkpoints are written every
/// `SOLVER.CHECKPOINT_PERIOD` iterations, at the end, and at SIGINT and SIGTERM (the state after the last completed
/// iteration). The processes of a job train together, each on its share of a batch; rank 0 writes.
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
    let mut progress = Progress::new(TARGET, "iterations", max_iter.max(0) as u64, true).starting_at(start as u64);
    let watched = TrainingState::clone(state);
    let _guard = on_termination(move |signal| save_at_signal(&watched, signal))?;

    let mut reducer = comm::reducer(&trained(state))?;

    let begin = Instant::now();
    let mut end = Instant::now();
    let mut iteration = start;
    let mut batches = data_loader.iter();
    while iteration < max_iter {
        comm::begin_iteration(iteration + 1);
        let Some(batch) = batches.next().transpose()? else { break };
        let data_time = end.elapsed().as_secs_f64();
        iteration += 1;
        comm::enter(Phase::Forward);
        if let Some(reducer) = &mut reducer {
            // In the second iteration the processes agree on new buckets.
            comm::together("preparing an iteration", || reducer.prepare_for_forward())?;
        }
        let losses = losses(training, &batch)?;
        let values = loss_values(&losses);
        let means = comm::reduce_dict(values.clone())?;
        if !all_finite(&means) {
            let hint = "nothing was saved; earlier checkpoints are as they were. A lower SOLVER.BASE_LR or a longer \
                        SOLVER.WARMUP_ITERS often helps";
            if all_finite(&values) {
                bail!("iteration {iteration}: the loss of another process is not finite; {hint}");
            }
            let (terms, images) = (terms(&values), image_ids(data_loader, &batch));
            bail!("iteration {iteration}: the loss is not finite ({terms}); images: {images}; {hint}");
        }
        for (name, value) in means {
            meters.update(name, value);
        }
        state.lock().optimizer.zero_grad();
        comm::enter(Phase::Backward);
        backward(&total(&losses), reducer.as_mut()).with_context(|| format!("iteration {iteration}"))?;
        comm::enter(Phase::Update);
        state.step()?;

        meters.update("time", end.elapsed().as_secs_f64());
        meters.update("data", data_time);
        end = Instant::now();
        progress.inc(1);
        if iteration % LOG_PERIOD == 0 || iteration == max_iter {
            log_line(training, "", iteration, max_iter, &meters, &meters);
        }
        if cfg.solver.checkpoint_period > 0 && iteration % cfg.solver.checkpoint_period == 0 {
            save(state, &checkpoint_name(iteration), iteration)?;
        }
        if let Some(data_loader_val) = training.data_loader_val {
            if cfg.solver.test_period > 0 && iteration % cfg.solver.test_period == 0 {
                let meters_val = validate(training, data_loader_val)?;
                log_line(training, "[Validation]: ", iteration, max_iter, &meters_val, &meters);
            }
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

/// The trained parameters, which other processes have as well.
fn trained(state: &TrainingState) -> Vec<(String, Tensor)> {
    state.lock().optimizer.groups().iter().map(|group| (group.name.clone(), group.tensor.shallow_clone())).collect()
}

/// Computes the gradients of `loss`; with a reducer, their means over the processes.
///
/// # Errors
/// A process of the job is lost, or a parameter did not take part in the loss.
pub fn backward(loss: &Tensor, reducer: Option<&mut Reducer>) -> Result<()> {
    let Some(reducer) = reducer else {
        loss.backward();
        return Ok(());
    };
    reducer.prepare_for_backward()?;
    let run = loss.f_backward().map_err(|error| {
        // libtorch appends its own stack trace.
        let message = error.to_string();
        let lines: Vec<_> = message.lines().take_while(|line| !line.starts_with("Exception raised from")).collect();
        anyhow!(lines.join(" "))
    });
    comm::explain("averaging the gradients", run)?;
    reducer.check_finalized()
}

fn losses(training: &Training, batch: &Batch) -> Result<Losses> {
    let images = batch.images.to_device(training.device);
    let targets: Vec<_> = batch.targets.iter().map(|target| target.to_device(training.device)).collect();
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

/// `loss` (the sum) and each term.
fn loss_values(losses: &Losses) -> Vec<(&str, f64)> {
    let terms: Vec<(&str, f64)> = losses.iter().map(|(name, loss)| (name.as_str(), loss.double_value(&[]))).collect();
    let sum = terms.iter().map(|(_, value)| value).sum();
    std::iter::once(("loss", sum)).chain(terms).collect()
}

fn all_finite(values: &[(&str, f64)]) -> bool {
    values.iter().all(|(_, value)| value.is_finite())
}

/// The terms of [`loss_values`] as text.
fn terms(values: &[(&str, f64)]) -> String {
    values[1..].iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

fn image_ids(data_loader: &DataLoader, batch: &Batch) -> String {
    let dataset = data_loader.dataset();
    let name = |&index: &usize| match dataset.image_info(index) {
        Ok(info) => format!("{} ({})", info.id, info.file_name),
        Err(_) => format!("number {index}"),
    };
    batch.indices.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Losses and evaluation on the validation data. Random numbers drawn here do not change the training.
fn validate(training: &Training, data_loader_val: &DataLoader) -> Result<MetricLogger> {
    let random = Generator::default_cpu()?.state()?;
    let Training { cfg, model, device, .. } = training;
    inference(cfg, model, data_loader_val, "[Validation]", *device, None)?;
    comm::enter(Phase::Testing);
    let (mut names, mut values): (Vec<String>, Vec<u8>) = Default::default();
    {
        let _no_grad = tch::no_grad_guard();
        for batch in data_loader_val.iter() {
            let losses = losses(training, &batch?)?;
            let row = loss_values(&losses);
            names = row.iter().map(|(name, _)| name.to_string()).collect();
            if all_finite(&row) {
                values.extend(row.iter().flat_map(|(_, value)| value.to_le_bytes()));
            }
        }
    }
    Generator::default_cpu()?.set_state(&random)?;
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
    let memory = peak_memory_mib().unwrap_or(0.0);
    let delimiter = meters.delimiter();
    let what = if what.is_empty() { String::new() } else { format!("{what}{delimiter}") };
    log::info!(
        target: TARGET,
        "{what}eta: {eta}{delimiter}iter: {iteration}{delimiter}{meters}{delimiter}lr: {lr:.6}{delimiter}max mem: {memory:.0}"
    );
}

/// Saves a checkpoint, but not one with weights that are not finite: it would replace a good one as the newest.
fn save(state: &TrainingState, name: &str, iteration: i64) -> Result<()> {
    comm::enter(Phase::Checkpoint);
    {
        let completed = state.lock();
        for group in completed.optimizer.groups() {
            if group.tensor.isfinite().all().int64_value(&[]) == 0 {
                bail!("after iteration {iteration} the weight {} is not finite; {name} was not saved", group.name);
            }
        }
    }
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

    fn losses(values: &[(&str, f64)]) -> Losses {
        values.iter().map(|(name, value)| (name.to_string(), Tensor::from(*value))).collect()
    }

    #[test]
    fn the_sum_comes_before_the_terms() {
        let losses = losses(&[("loss_classifier", 1.5), ("loss_mask", 0.5)]);
        let values = loss_values(&losses);
        assert_eq!(values, [("loss", 2.0), ("loss_classifier", 1.5), ("loss_mask", 0.5)]);
        assert!(all_finite(&values));
        assert_eq!(total(&losses).double_value(&[]), 2.0);
    }

    #[test]
    fn a_term_that_is_not_finite_is_shown_with_the_others() {
        let losses = losses(&[("loss_classifier", 1.5), ("loss_mask", f64::NAN)]);
        let values = loss_values(&losses);
        assert!(!all_finite(&values));
        assert_eq!(terms(&values), "loss_classifier 1.5, loss_mask NaN");
    }
}
