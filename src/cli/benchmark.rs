//! `benchmark`: how long a model takes for an image, phase by phase, and what it needs.

mod training;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use clap::Parser;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::{parse, CommandLine, ConfigArgs, DistributedArgs, Registries};
use crate::checkpoint::DetectronCheckpointer;
use crate::config::Config;
use crate::data::transforms::{read_image, resize, Normalize, Resize};
use crate::engine::device::parse_device;
use crate::ffi;
use crate::layers::{FlopCounter, Parameters};
use crate::modeling::detector::{build_detection_model, GeneralizedRcnn};
use crate::structures::{to_image_list, BoxList, ImageList, Masker};
use crate::utils::comm;
use crate::utils::miscellaneous::{peak_memory_mib, write_atomically};

/// Times the inference of a model on one image, or its training, phase by phase.
///
/// Weights come from MODEL.WEIGHT; with an empty one they are random, which costs the same up to the number of
/// detections.
#[derive(Debug, Parser)]
#[command(name = "benchmark")]
struct Args {
    /// Image to run on: decoded and resized as by test_net.
    #[arg(long, value_name = "FILE", conflicts_with = "image_size")]
    image: Option<PathBuf>,

    /// Noise of this size instead, in pixels of the network's input.
    #[arg(long, value_name = "HxW", default_value = "800x1066", value_parser = parse_size)]
    image_size: (i64, i64),

    /// Timed runs.
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Runs before them that do not count.
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    warmup: u32,

    /// Threads of libtorch, instead of as many as there are cores (or OMP_NUM_THREADS).
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    threads: Option<i32>,

    /// Times this many training steps on DATASETS.TRAIN instead; several processes train together.
    #[arg(long, value_name = "STEPS", conflicts_with_all = ["image", "image_size"],
          value_parser = clap::value_parser!(u32).range(1..))]
    training: Option<u32>,

    #[command(flatten)]
    distributed: DistributedArgs,

    /// File for the numbers.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,
}

fn parse_size(text: &str) -> Result<(i64, i64), String> {
    let side = |s: &str| s.parse::<i64>().ok().filter(|&v| v > 0);
    let sides = text.split_once('x').and_then(|(h, w)| Some((side(h)?, side(w)?)));
    sides.ok_or_else(|| "a size is HEIGHTxWIDTH, such as 800x1066".into())
}

/// The program `benchmark`.
///
/// # Errors
/// Wrong usage (a [`clap::Error`]), a configuration, weights or an image that cannot be used.
pub fn benchmark(args: impl CommandLine, registries: &Registries) -> Result<()> {
    let args: Args = parse(args)?;
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).try_init();
    let cfg = Config::load(args.config.path(), &args.config.opts)?;
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads);
    }
    ffi::keep_freed_memory();
    if args.training.is_some() {
        let DistributedArgs { local_rank, .. } = args.distributed;
        comm::init_process_group(local_rank, args.distributed.timeout(), args.distributed.slow_after())?;
    }
    tch::manual_seed((args.config.seed.unwrap_or(0) + comm::get_rank() as u64) as i64);
    let device = parse_device(&cfg.model.device)?;
    let parameters = Parameters::new(device);
    let model = build_detection_model(&cfg, &parameters.root(), &registries.models)?;
    let checkpointer = DetectronCheckpointer::new(&cfg, &parameters, None);
    let loaded = checkpointer.load(Some(&cfg.model.weight), false)?;

    if let Some(steps) = args.training {
        training::training(&args, steps, &cfg, (&parameters, &model), registries)?;
        comm::destroy_process_group();
        return Ok(());
    }
    let mut phases = Phases::default();
    let mut forward = Vec::new();
    let mut result = None;
    for run in 0..args.warmup + args.runs {
        if run == args.warmup {
            phases = Phases::default();
            forward.clear();
        }
        let (images, original_size) = input(&args, &cfg, device, &mut phases)?;
        let counter = FlopCounter::start();
        let (seconds, detections) = detect(&model, &images, &mut phases)?;
        let flop = counter.flop();
        forward.push(seconds);
        phases.time("paste masks", || paste(&detections, original_size))?;
        result = Some((detections.len(), flop));
    }
    let (detections, flop) = result.context("at least one run")?;
    let report = Report {
        weights: loaded.file,
        phases: phases.medians(),
        forward,
        detections,
        flop,
        peak_memory_mib: peak_memory_mib(),
        matrix_product: matrix_product_flops(device),
    };
    report.print();
    match &args.json {
        Some(file) => write_atomically(file, &serde_json::to_vec_pretty(&report.json())?),
        None => Ok(()),
    }
}

/// The network's input, and the size (width, height) that results are scaled to.
fn input(args: &Args, cfg: &Config, device: Device, phases: &mut Phases) -> Result<(ImageList, (i64, i64))> {
    let divisibility = cfg.dataloader.size_divisibility;
    let Some(path) = &args.image else {
        let (height, width) = args.image_size;
        let noise = Tensor::randn([3, height, width], (Kind::Float, Device::Cpu)) * 50.0;
        return Ok((to_image_list(&[noise], divisibility).to_device(device), (width, height)));
    };
    let image = phases.time("decode", || read_image(path))?;
    ensure!(image.width > 0 && image.height > 0, "{}: an image without pixels", path.display());
    let size = image.size();
    let images = phases.time("resize, normalise", || {
        let rule = Resize::new(vec![cfg.input.min_size_test], Some(cfg.input.max_size_test))?;
        let (height, width) = rule.get_size(size, cfg.input.min_size_test);
        let resized = resize(&image, (width as usize, height as usize));
        let tensor = Normalize::from_config(cfg)?.to_tensor(&resized);
        Ok(to_image_list(&[tensor], divisibility).to_device(device))
    })?;
    Ok((images, size))
}

/// The steps of [`GeneralizedRcnn::detect`], each timed; the seconds they took together and what was found.
fn detect(model: &GeneralizedRcnn, images: &ImageList, phases: &mut Phases) -> Result<(f64, BoxList)> {
    let _no_grad = tch::no_grad_guard();
    let start = Instant::now();
    let features = phases.time("backbone", || Ok(model.features(images)))?;
    let mut found = phases.time("rpn", || model.rpn().detect(images, &features))?;
    if let Some(heads) = model.roi_heads() {
        found = phases.time("box head", || heads.r#box.detect(&features, &found))?;
        if let Some(mask) = &heads.mask {
            found = phases.time("mask head", || mask.detect(&features, found))?;
        }
        if let Some(keypoint) = &heads.keypoint {
            found = phases.time("keypoint head", || keypoint.detect(&features, found))?;
        }
    }
    let detections = found.into_iter().next().context("the model gives nothing for an image")?;
    Ok((start.elapsed().as_secs_f64(), detections))
}

/// What evaluation does with detections: boxes in the image's size, masks as run lengths of the whole image.
fn paste(detections: &BoxList, size: (i64, i64)) -> Result<()> {
    let detections = detections.to_device(Device::Cpu).resize(size)?;
    if detections.has_field("mask") {
        Masker::default().encode(detections.tensor_field("mask")?, &detections)?;
    }
    Ok(())
}

/// Operations a second of a large matrix product: what the machine can do at best with plain means.
fn matrix_product_flops(device: Device) -> f64 {
    const SIDE: i64 = 1024;
    let matrix = Tensor::randn([SIDE, SIDE], (Kind::Float, device));
    let seconds = (0..8).map(|_| {
        let start = Instant::now();
        // Reading a value waits for the device.
        let _ = matrix.mm(&matrix).double_value(&[0, 0]);
        start.elapsed().as_secs_f64()
    });
    2.0 * (SIDE as f64).powi(3) / median(&seconds.skip(1).collect::<Vec<_>>())
}

/// Seconds of each phase, in the order in which they first came.
#[derive(Default)]
struct Phases(Vec<(&'static str, Vec<f64>)>);

impl Phases {
    fn time<T>(&mut self, name: &'static str, phase: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = phase().with_context(|| name.to_string())?;
        let seconds = start.elapsed().as_secs_f64();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, list)) => list.push(seconds),
            None => self.0.push((name, vec![seconds])),
        }
        Ok(result)
    }

    fn medians(&self) -> Vec<(&'static str, f64)> {
        self.0.iter().map(|(name, seconds)| (*name, median(seconds))).collect()
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]),
    }
}

struct Report {
    weights: Option<PathBuf>,
    phases: Vec<(&'static str, f64)>,
    forward: Vec<f64>,
    detections: usize,
    flop: u64,
    peak_memory_mib: Option<f64>,
    matrix_product: f64,
}

impl Report {
    fn print(&self) {
        let weights = self.weights.as_deref().map_or("random weights".into(), Path::to_string_lossy);
        println!("{weights}, {} threads, median of {} runs", tch::get_num_threads(), self.forward.len());
        for (name, seconds) in &self.phases {
            println!("{name:<20} {:9.1} ms", seconds * 1e3);
        }
        let forward = median(&self.forward);
        let total: f64 = self.phases.iter().map(|(_, seconds)| seconds).sum();
        println!("{:<20} {:9.1} ms: {:.2} images/s", "network", forward * 1e3, 1.0 / forward);
        println!("{:<20} {:9.1} ms: {:.2} images/s", "everything", total * 1e3, 1.0 / total);
        println!("{:<20} {:9}", "detections", self.detections);
        if let Some(peak) = self.peak_memory_mib {
            println!("{:<20} {peak:9.0} MiB", "peak memory");
        }
        let (gflop, rate) = (self.flop as f64 / 1e9, self.flop as f64 / 1e9 / forward);
        println!("{:<20} {gflop:9.1} GFLOP: {rate:.1} GFLOP/s", "convolutions, linear");
        println!("{:<20} {:9.1} GFLOP/s", "matrix product", self.matrix_product / 1e9);
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "forward_s": self.forward,
            "phases": self.phases.iter().map(|&(n, s)| (n, s)).collect::<std::collections::BTreeMap<_, _>>(),
            "detections": self.detections,
            "peak_memory_mb": self.peak_memory_mib,
            "gflop": self.flop as f64 / 1e9,
            "matrix_product_gflop_per_s": self.matrix_product / 1e9,
            "threads": tch::get_num_threads(),
            "weights": self.weights,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_height_times_width() {
        assert_eq!(parse_size("800x1066"), Ok((800, 1066)));
        for wrong in ["800", "0x5", "ax3", "3x4x5", ""] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn phases_keep_their_order_and_name_their_errors() {
        let mut phases = Phases::default();
        for _ in 0..2 {
            phases.time("b", || Ok(())).unwrap();
            phases.time("a", || Ok(())).unwrap();
        }
        assert_eq!(phases.medians().iter().map(|(n, _)| *n).collect::<Vec<_>>(), ["b", "a"]);
        let error = phases.time("c", || -> Result<()> { anyhow::bail!("broken") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "c: broken");
    }
}
