//! `benchmark`: how long a model takes for an image or a training step, phase by phase, and what it needs.

mod loading;
mod report;
mod scaling;
mod training;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{ensure, Result};
use clap::Parser;
use tch::{Device, Kind, Tensor};

use self::report::{matrix_product_flops, Phases, Report};
use self::training::Trainer;
use super::setup::{join_job, seed_generator};
use super::{parse, BackendArgs, CommandLine, ConfigArgs, DistributedArgs, Registries};
use crate::checkpoint::DetectronCheckpointer;
use crate::config::Config;
use crate::data::transforms::{read_image, resize, Normalize, Resize};
use crate::engine::device::{parse_device, peak_memory_mib, synchronize};
use crate::ffi::{self, OperatorCounter, SyncCounter};
use crate::layers::{FlopCounter, Parameters};
use crate::modeling::detector::{build_detection_model, GeneralizedRcnn};
use crate::structures::{to_image_list, BoxList, ImageList, Masker};
use crate::utils::atomic_file::write_atomically;
use crate::utils::comm;

/// The most runs of a kind; nobody waits for more.
const MAX_RUNS: i64 = 1_000_000;

/// Times the inference of a model on one image, or its training, phase by phase.
///
/// Weights come from MODEL.WEIGHT; with an empty one they are random, which costs the same up to the number of
/// detections.
#[derive(Debug, Parser)]
#[command(name = "benchmark", version)]
struct Args {
    /// Image to run on: decoded and resized as by test_net.
    #[arg(long, value_name = "FILE", conflicts_with = "image_size")]
    image: Option<PathBuf>,

    /// Noise of this size instead, in pixels of the network's input.
    #[arg(long, value_name = "HxW", default_value = "800x1066", value_parser = parse_size)]
    image_size: (i64, i64),

    /// Images in a batch: the image or the noise so many times.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// Times training steps (losses, gradients, SGD) with eight made-up objects in every image.
    #[arg(long)]
    training: bool,

    /// Timed runs.
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=MAX_RUNS))]
    runs: u32,

    /// Runs before them that do not count.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(..=MAX_RUNS))]
    warmup: u32,

    /// Threads of libtorch, instead of as many as there are cores (or OMP_NUM_THREADS).
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    threads: Option<i32>,

    /// Times this many training steps on DATASETS.TRAIN and their communication; several processes train together.
    #[arg(long, value_name = "STEPS", conflicts_with_all = ["image", "image_size", "batch", "training"],
          value_parser = clap::value_parser!(u32).range(1..=MAX_RUNS))]
    scaling: Option<u32>,

    #[command(flatten)]
    distributed: DistributedArgs,

    /// Loads MODEL.WEIGHT again and again instead (random weights from a temporary file where it is empty): seconds,
    /// and memory beside the model.
    #[arg(long, conflicts_with_all = ["image", "image_size", "batch", "training", "scaling", "deterministic", "tf32",
          "channels_last", "seed"])]
    loading: bool,

    /// Also lists the operators that libtorch runs for a batch or a training step, and how often.
    #[arg(long, conflicts_with_all = ["scaling", "loading"])]
    operators: bool,

    /// File for the numbers.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    #[command(flatten)]
    backend: BackendArgs,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs after the timed ones on a GPU, which is waited for at the end of each phase then: the phases are theirs.
const RUNS_BY_PHASE: u32 = 3;

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
    let cfg = args.config.load()?;
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads);
    }
    if args.loading {
        return loading::loading(&args, &cfg, registries);
    }
    ffi::keep_freed_memory();
    let device = match args.scaling {
        Some(_) => join_job(&cfg.model.device, &args.distributed, &args.backend)?,
        None => {
            let device = parse_device(&cfg.model.device)?;
            args.backend.apply()?;
            device
        }
    };
    seed_generator(args.config.seed.unwrap_or(0));
    let parameters = Parameters::new(device);
    let model = args.backend.format(build_detection_model(&cfg, &parameters.root(), &registries.models)?)?;
    let checkpointer = DetectronCheckpointer::new(&cfg, &parameters, None);
    let loaded = checkpointer.load(Some(&cfg.model.weight), false)?;

    if let Some(steps) = args.scaling {
        scaling::scaling(&args, steps, &cfg, (&parameters, &model), registries)?;
        comm::destroy_process_group();
        return Ok(());
    }
    let mut trainer = args.training.then(|| Trainer::new(&cfg, &parameters)).transpose()?;
    let mut phases = Phases::new(device);
    let (mut seconds, mut detections, mut flop) = (Vec::new(), None, None);
    let timed = args.warmup + args.runs;
    let by_phase = if device.is_cuda() { RUNS_BY_PHASE } else { 0 };
    for run in 0..timed + by_phase {
        if run == args.warmup {
            phases = Phases::new(device);
            seconds.clear();
        }
        if run == timed {
            phases = Phases::waiting(device);
        }
        let (images, original_size) = input(&args, &cfg, device, &mut phases)?;
        let targets = trainer.as_ref().map(|trainer| trainer.targets(&images)).transpose()?;
        synchronize(device);
        let start = Instant::now();
        let mut found = None;
        match (&mut trainer, &targets) {
            (Some(trainer), Some(targets)) => trainer.step(&model, &images, targets, &mut phases)?,
            _ => {
                let counter = FlopCounter::start();
                found = Some(detect(&model, &images, &mut phases)?);
                flop = Some(counter.flop());
            }
        }
        synchronize(device);
        if run < timed {
            seconds.push(start.elapsed().as_secs_f64());
        }
        if let Some(found) = found {
            detections = Some(found.iter().map(BoxList::len).sum());
            phases.time("paste masks", || found.iter().try_for_each(|found| paste(found, original_size)))?;
        }
    }
    let counted = count(&args, &cfg, device, &model, trainer.as_mut())?;
    let report = Report {
        weights: loaded.file,
        training: args.training,
        batch: args.batch.into(),
        phases: phases.medians(),
        seconds,
        detections,
        flop,
        peak_memory_mib: peak_memory_mib(device),
        waits: counted.waits,
        operators: counted.operators,
        matrix_product: matrix_product_flops(device),
    };
    report.print();
    match &args.json {
        Some(file) => write_atomically(file, &serde_json::to_vec_pretty(&report.json())?),
        None => Ok(()),
    }
}

/// What a run does, beside its time.
struct Counted {
    /// How often it waits for the GPU, as libtorch counts it.
    waits: Option<i64>,
    /// Operators by name.
    operators: Option<BTreeMap<String, i64>>,
}

/// One more run, in which is counted what can be counted and was asked for.
fn count(
    args: &Args,
    cfg: &Config,
    device: Device,
    model: &GeneralizedRcnn,
    trainer: Option<&mut Trainer>,
) -> Result<Counted> {
    if !device.is_cuda() && !args.operators {
        return Ok(Counted { waits: None, operators: None });
    }
    let mut phases = Phases::new(device);
    let (images, _) = input(args, cfg, device, &mut phases)?;
    let targets = trainer.as_ref().map(|trainer| trainer.targets(&images)).transpose()?;
    let waits = device.is_cuda().then(SyncCounter::start).transpose()?;
    let operators = args.operators.then(OperatorCounter::start).transpose()?;
    match (trainer, &targets) {
        (Some(trainer), Some(targets)) => trainer.step(model, &images, targets, &mut phases)?,
        _ => drop(detect(model, &images, &mut phases)?),
    }
    Ok(Counted {
        waits: waits.map(|counter| counter.count()),
        operators: operators.map(|counter| counter.counts()).transpose()?,
    })
}

/// The network's input, and the size (width, height) that results are scaled to.
fn input(args: &Args, cfg: &Config, device: Device, phases: &mut Phases) -> Result<(ImageList, (i64, i64))> {
    let list = |image: Tensor| {
        let images: Vec<_> = (0..args.batch).map(|_| image.shallow_clone()).collect();
        to_image_list(&images, cfg.dataloader.size_divisibility).to_device(device)
    };
    let Some(path) = &args.image else {
        let (height, width) = args.image_size;
        let noise = Tensor::randn([3, height, width], (Kind::Float, Device::Cpu)) * 50.0;
        return Ok((list(noise), (width, height)));
    };
    let image = phases.time("decode", || read_image(path))?;
    ensure!(image.width > 0 && image.height > 0, "{}: an image without pixels", path.display());
    let size = image.size();
    let images = phases.time("resize, normalise", || {
        let rule = Resize::from_config(cfg, false)?;
        let (height, width) = rule.get_size(size, cfg.input.min_size_test);
        let resized = resize(&image, (width as usize, height as usize));
        Ok(list(Normalize::from_config(cfg)?.to_tensor(&resized)))
    })?;
    Ok((images, size))
}

/// The steps of [`GeneralizedRcnn::detect`], each timed.
fn detect(model: &GeneralizedRcnn, images: &ImageList, phases: &mut Phases) -> Result<Vec<BoxList>> {
    let _no_grad = tch::no_grad_guard();
    let _autocast = model.autocast()?;
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
    Ok(found)
}

/// What evaluation does with detections: boxes in the image's size, masks as run lengths of the whole image.
fn paste(detections: &BoxList, size: (i64, i64)) -> Result<()> {
    let detections = detections.to_device(Device::Cpu).resize(size)?;
    if detections.has_field("mask") {
        Masker::default().encode(detections.tensor_field("mask")?, &detections)?;
    }
    Ok(())
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
}
