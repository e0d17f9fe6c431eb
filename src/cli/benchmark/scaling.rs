//! `benchmark --scaling`: how long the parts of a training step take, alone or with other processes, and how much of
//! the communication the backward pass hides.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::report::{median, Phases};
use super::Args;
use crate::cli::output::say;
use crate::cli::setup::loader_options;
use crate::cli::Registries;
use crate::config::Config;
use crate::data::{make_data_loader, LoaderOptions};
use crate::engine::trainer::{backward, total};
use crate::layers::Parameters;
use crate::modeling::detector::GeneralizedRcnn;
use crate::solver::{make_optimizer, Sgd};
use crate::structures::boxlists_to_device;
use crate::utils::atomic_file::write_atomically;
use crate::utils::comm;

const BACKWARD: &str = "backward, averaging";
const BACKWARD_ALONE: &str = "backward alone";
const ALL_REDUCE: &str = "all-reduce alone";

/// Times `steps` training steps on the configuration's data after `args.warmup` others. Every batch is taken twice,
/// once without the averaging and the update, so that the backward pass is seen alone.
///
/// # Errors
/// Data that cannot be read, or a process of the job that is lost.
pub(super) fn scaling(
    args: &Args,
    steps: u32,
    cfg: &Config,
    (parameters, model): (&Parameters, &GeneralizedRcnn),
    registries: &Registries,
) -> Result<()> {
    let mut tensors: Vec<_> = parameters.state().into_iter().map(|entry| entry.tensor).collect();
    comm::broadcast(&mut tensors)?;
    let mut optimizer = make_optimizer(cfg, parameters);
    let device = tensors.first().map_or(Device::Cpu, Tensor::device);
    let trained = optimizer.parameters();
    let gradients: usize = trained.iter().map(|(_, tensor)| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum();
    let mut reducer = comm::reducer(&trained)?;
    let options = loader_options(args.config.seed.unwrap_or(0), device, registries);
    let options = LoaderOptions { is_train: true, ..options };
    let loader = make_data_loader(cfg, &options)?.pop().context("DATASETS.TRAIN names no data set")?;

    let mut phases = Phases::waiting(device);
    let (mut whole, mut waits, mut traffic, mut images) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut batches = loader.iter();
    for step in 0..args.warmup + steps {
        if step == args.warmup {
            phases = Phases::waiting(device);
            (whole, waits, traffic) = (Vec::new(), Vec::new(), Vec::new());
        }
        let begin = Instant::now();
        let batch = phases.time("data", || batches.next().context("SOLVER.MAX_ITER is too small")?)?;
        let loaded = begin.elapsed();
        images = batch.indices.len();
        // Each way is first every second time.
        for averages in [step % 2 == 0, step % 2 != 0] {
            let begin = Instant::now();
            if let Some(reducer) = reducer.as_mut().filter(|_| averages) {
                comm::together("preparing a step", || reducer.prepare_for_forward())?;
            }
            let loss = phases.time("forward", || {
                let targets = boxlists_to_device(&batch.targets, device);
                let losses = model.losses(&batch.images.to_device(device), &targets)?;
                let values = losses.iter().map(|(name, loss)| (name.as_str(), loss.double_value(&[]))).collect();
                comm::reduce_dicts(&[values])?;
                Ok(total(&losses))
            })?;
            optimizer.zero_grad();
            if averages {
                let before = sent_bytes();
                phases.time(BACKWARD, || backward(&loss, reducer.as_mut()))?;
                waits.push(comm::all_reduce_wait().as_secs_f64());
                traffic.extend(before.zip(sent_bytes()).map(|(before, after)| after - before));
                phases.time("update", || {
                    optimizer.step();
                    Ok(())
                })?;
                whole.push((loaded + begin.elapsed()).as_secs_f64());
            } else {
                phases.time(BACKWARD_ALONE, || backward(&loss, None))?;
            }
        }
    }
    drop(reducer);
    if comm::get_world_size() > 1 {
        all_reduce_alone(&mut phases, &optimizer, steps, device)?;
    }
    let report = Report { phases: phases.medians(), whole, waits, traffic, images, gradients };
    if comm::is_main_process() {
        report.print();
        if let Some(file) = &args.json {
            write_atomically(file, &serde_json::to_vec_pretty(&report.json())?)?;
        }
    }
    Ok(())
}

/// Averages as many bytes as the gradients have, in pieces of the reducer's size, while nothing is computed.
fn all_reduce_alone(phases: &mut Phases, optimizer: &Sgd, times: u32, device: Device) -> Result<()> {
    const PIECE: i64 = 25 << 20;
    let numbers: i64 = optimizer.groups().iter().map(|group| group.tensor.numel() as i64).sum();
    let all = Tensor::ones([numbers], (Kind::Float, device));
    for _ in 0..times {
        comm::synchronize()?;
        phases.time(ALL_REDUCE, || all.split(PIECE / 4, 0).iter_mut().try_for_each(comm::all_reduce_sum))?;
    }
    Ok(())
}

/// Bytes that have left through the network interface that Gloo is told to use, those of other programs included.
fn sent_bytes() -> Option<u64> {
    let interface = std::env::var("GLOO_SOCKET_IFNAME").ok()?;
    let table = std::fs::read_to_string("/proc/net/dev").ok()?;
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix(&interface)?.strip_prefix(':'))?;
    // Eight columns about what came in are first.
    row.split_whitespace().nth(8)?.parse().ok()
}

struct Report {
    phases: Vec<(&'static str, f64)>,
    /// Seconds of the steps that average.
    whole: Vec<f64>,
    /// Seconds between a process's own last gradient and the last average.
    waits: Vec<f64>,
    /// Bytes that all processes of the machine sent in a backward pass.
    traffic: Vec<u64>,
    /// Images of a process in a step.
    images: usize,
    /// Bytes.
    gradients: usize,
}

impl Report {
    fn seconds(&self, name: &str) -> Option<f64> {
        self.phases.iter().find(|(known, _)| *known == name).map(|(_, seconds)| *seconds)
    }

    /// Images a second of all processes.
    fn throughput(&self) -> f64 {
        (self.images * comm::get_world_size()) as f64 / median(&self.whole)
    }

    /// The share of the communication's time that the backward pass does not become longer by; `None` in one process.
    fn hidden(&self) -> Option<f64> {
        let longer = self.seconds(BACKWARD)? - self.seconds(BACKWARD_ALONE)?;
        Some((1.0 - longer / self.seconds(ALL_REDUCE)?).clamp(0.0, 1.0))
    }

    /// Bytes that a process sent in a step.
    fn sent(&self) -> Option<f64> {
        let traffic: Vec<f64> = self.traffic.iter().map(|&bytes| bytes as f64).collect();
        (!traffic.is_empty()).then(|| median(&traffic) / comm::get_world_size() as f64)
    }

    fn print(&self) {
        let (processes, threads) = (comm::get_world_size(), tch::get_num_threads());
        let (images, steps) = (self.images, self.whole.len());
        say!("{processes} processes, {threads} threads and {images} images each, medians of {steps} steps");
        for (name, seconds) in &self.phases {
            say!("{name:<24} {:9.1} ms", seconds * 1e3);
        }
        let step = median(&self.whole);
        say!("{:<24} {:9.1} ms: {:.3} images/s", "step, averaging", step * 1e3, self.throughput());
        say!("{:<24} {:9.2} MB", "gradients", self.gradients as f64 / 1e6);
        let Some(hidden) = self.hidden() else { return };
        say!("{:<24} {:9.1} ms", "wait after own gradients", median(&self.waits) * 1e3);
        say!("{:<24} {:9.0} % of the all-reduce", "hidden behind backward", hidden * 100.0);
        if let Some(sent) = self.sent() {
            say!("{:<24} {:9.2} MB by each process in a step", "sent", sent / 1e6);
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "processes": comm::get_world_size(),
            "threads": tch::get_num_threads(),
            "images_per_process": self.images,
            "phases": self.phases.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
            "step_s": self.whole,
            "wait_s": self.waits,
            "images_per_s": self.throughput(),
            "gradient_bytes": self.gradients,
            "sent_bytes": self.sent(),
            "hidden": self.hidden(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(phases: &[(&'static str, f64)]) -> Report {
        let (whole, waits, traffic) = (vec![2.0, 4.0, 3.0], vec![0.1], vec![10, 30, 20]);
        Report { phases: phases.to_vec(), whole, waits, traffic, images: 6, gradients: 8 }
    }

    #[test]
    fn what_is_hidden_is_the_part_by_which_backward_is_not_longer() {
        let phases = |averaging: f64| report(&[(BACKWARD, averaging), (BACKWARD_ALONE, 1.0), (ALL_REDUCE, 0.5)]);
        assert_eq!(phases(1.125).hidden(), Some(0.75));
        assert_eq!(phases(0.9).hidden(), Some(1.0));
        assert_eq!(phases(2.0).hidden(), Some(0.0));
        assert_eq!(report(&[(BACKWARD, 1.0), (BACKWARD_ALONE, 1.0)]).hidden(), None);
    }

    #[test]
    fn rates_are_those_of_the_median_step() {
        let report = report(&[]);
        assert_eq!((report.throughput(), report.sent()), (2.0, Some(20.0)));
    }
}
