//! What `benchmark` measures and prints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::cli::output::say;
use crate::engine::device::synchronize;

/// Seconds of each phase, in the order in which they first came.
pub(super) struct Phases {
    device: Device,
    waits: bool,
    seconds: Vec<(&'static str, Vec<f64>)>,
}

impl Phases {
    /// On a GPU a phase ends when all is on its way.
    pub(super) fn new(device: Device) -> Self {
        Self { device, waits: false, seconds: Vec::new() }
    }

    /// A phase ends when it is done on the device as well.
    pub(super) fn waiting(device: Device) -> Self {
        Self { waits: true, ..Self::new(device) }
    }

    /// Runs a phase.
    pub(super) fn time<T>(&mut self, name: &'static str, phase: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = phase().with_context(|| name.to_string())?;
        if self.waits {
            synchronize(self.device);
        }
        let seconds = start.elapsed().as_secs_f64();
        match self.seconds.iter_mut().find(|(known, _)| *known == name) {
            Some((_, list)) => list.push(seconds),
            None => self.seconds.push((name, vec![seconds])),
        }
        Ok(result)
    }

    pub(super) fn medians(&self) -> Vec<(&'static str, f64)> {
        self.seconds.iter().map(|(name, seconds)| (*name, median(seconds))).collect()
    }
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]),
    }
}

pub(super) struct Report {
    pub(super) weights: Option<PathBuf>,
    pub(super) training: bool,
    pub(super) batch: usize,
    pub(super) phases: Vec<(&'static str, f64)>,
    /// Seconds of the network, or of the training step, in each run.
    pub(super) seconds: Vec<f64>,
    /// In the whole batch; none for training.
    pub(super) detections: Option<usize>,
    /// Of the forward pass, none for training.
    pub(super) flop: Option<u64>,
    pub(super) peak_memory_mib: Option<f64>,
    /// For the GPU, in a run of the network or a training step; none on the CPU.
    pub(super) waits: Option<i64>,
    /// Of libtorch, in a run of the network or a training step, where that was asked for.
    pub(super) operators: Option<BTreeMap<String, i64>>,
    pub(super) matrix_product: f64,
}

impl Report {
    pub(super) fn print(&self) {
        let weights = self.weights.as_deref().map_or("random weights".into(), Path::to_string_lossy);
        say!("{weights}, {} threads, median of {} runs", tch::get_num_threads(), self.seconds.len());
        for (name, seconds) in &self.phases {
            say!("{name:<20} {:9.1} ms", seconds * 1e3);
        }
        let rate = |seconds: f64| self.batch as f64 / seconds;
        let seconds = median(&self.seconds);
        let total: f64 = self.phases.iter().map(|(_, seconds)| seconds).sum();
        let what = if self.training { "training step" } else { "network" };
        say!("{what:<20} {:9.1} ms: {:.2} images/s", seconds * 1e3, rate(seconds));
        say!("{:<20} {:9.1} ms: {:.2} images/s", "everything", total * 1e3, rate(total));
        if let Some(detections) = self.detections {
            say!("{:<20} {detections:9}", "detections");
        }
        if let Some(peak) = self.peak_memory_mib {
            say!("{:<20} {peak:9.0} MiB", "peak memory");
        }
        if let Some(waits) = self.waits {
            say!("{:<20} {waits:9}", "waits for the GPU");
        }
        if let Some(flop) = self.flop {
            let gflop = flop as f64 / 1e9;
            say!("{:<20} {gflop:9.1} GFLOP: {:.1} GFLOP/s", "convolutions, linear", gflop / seconds);
        }
        say!("{:<20} {:9.1} GFLOP/s", "matrix product", self.matrix_product / 1e9);
        if let Some(operators) = &self.operators {
            say!("{:<20} {:9}", "operators", operators.values().sum::<i64>());
            let mut by_count: Vec<_> = operators.iter().collect();
            by_count.sort_by_key(|(_, count)| -**count);
            by_count.iter().for_each(|(name, count)| say!("{count:10} {name}"));
        }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let seconds = if self.training { "step_s" } else { "forward_s" };
        json!({
            seconds: self.seconds,
            "batch": self.batch,
            "phases": self.phases.iter().copied().collect::<BTreeMap<_, _>>(),
            "detections": self.detections,
            "peak_memory_mb": self.peak_memory_mib,
            "waits_for_gpu": self.waits,
            "operators": self.operators,
            "gflop": self.flop.map(|flop| flop as f64 / 1e9),
            "matrix_product_gflop_per_s": self.matrix_product / 1e9,
            "threads": tch::get_num_threads(),
            "weights": self.weights,
        })
    }
}

/// Operations a second of a large matrix product: what the machine can do at best with plain means.
pub(super) fn matrix_product_flops(device: Device) -> f64 {
    // A GPU is through with a small one before the next has been launched.
    let side = if device.is_cuda() { 8192 } else { 1024 };
    let matrix = Tensor::randn([side, side], (Kind::Float, device));
    let seconds = (0..8).map(|_| {
        let start = Instant::now();
        // Reading a value waits for the device.
        let _ = matrix.mm(&matrix).double_value(&[0, 0]);
        start.elapsed().as_secs_f64()
    });
    2.0 * (side as f64).powi(3) / median(&seconds.skip(1).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn phases_keep_their_order_and_name_their_errors() {
        let mut phases = Phases::new(Device::Cpu);
        for _ in 0..2 {
            phases.time("b", || Ok(())).unwrap();
            phases.time("a", || Ok(())).unwrap();
        }
        assert_eq!(phases.medians().iter().map(|(n, _)| *n).collect::<Vec<_>>(), ["b", "a"]);
        let error = phases.time("c", || -> Result<()> { anyhow::bail!("broken") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "c: broken");
    }
}
