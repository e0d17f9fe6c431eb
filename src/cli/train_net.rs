//! `train_net`: trains a model and tests it (the original's `tools/train_net.py`).

use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use clap::Parser;

use super::setup::{Program, TARGET};
use super::{parse, BackendArgs, CommandLine, ConfigArgs, DistributedArgs, Registries};
use crate::checkpoint::{DetectronCheckpointer, Loaded};
use crate::config::Config;
use crate::data::{make_data_loader, DataLoader, LoaderOptions};
use crate::engine::advice::advice;
use crate::engine::run_setting::RunSetting;
use crate::engine::trainer::{do_train, Training};
use crate::engine::training_state::{restored, set_random_state, Restored, TrainingState};
use crate::layers::{Parameters, Precision};
use crate::modeling::detector::GeneralizedRcnn;
use crate::solver::{make_lr_scheduler, make_optimizer, settings_in_force, GradScaler, Sgd, WarmupMultiStepLr};
use crate::utils::atomic_file::{remove_leftovers, write_atomically};
use crate::utils::comm::{self, get_rank, get_world_size, is_main_process};

/// Trains an object detection model and tests it.
#[derive(Debug, Parser)]
#[command(name = "train_net", version)]
struct Args {
    #[command(flatten)]
    distributed: DistributedArgs,

    #[command(flatten)]
    backend: BackendArgs,

    /// Do not test the final model.
    #[arg(long)]
    skip_test: bool,

    /// Makes it an error when weights do not fit the model, instead of skipping them.
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

/// The program `train_net`. Writes `log.txt`, `config.yml`, `labels.json`, checkpoints, `last_checkpoint` and
/// `inference/<data set>/` in `OUTPUT_DIR`; goes on from `last_checkpoint` when there is one.
///
/// # Errors
/// Wrong usage (a [`clap::Error`]), or anything that keeps the training from its end; the message says what to do.
pub fn train_net(args: impl CommandLine, registries: &Registries) -> Result<()> {
    let args: Args = parse(args)?;
    let program = Program::start(&args.config, (&args.distributed, &args.backend), &args, true)?;
    log_config(&program, &args.config)?;
    let model = train(&program, &args, registries)?;
    if !args.skip_test {
        program.run_test(&model, registries)?;
    }
    comm::destroy_process_group();
    Ok(())
}

fn log_config(program: &Program, args: &ConfigArgs) -> Result<()> {
    let mut reference = Config::default();
    if let Some(path) = args.path() {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        log::info!(target: TARGET, "Loaded configuration file {}", path.display());
        log::info!(target: TARGET, "\n{text}");
        reference = Config::load(Some(path), &[])?;
    }
    log::info!(target: TARGET, "Running with config:\n{}", program.cfg.to_node());
    for note in advice(&program.cfg, &reference.solver, get_world_size()) {
        log::warn!(target: TARGET, "{note}");
    }
    if program.output_dir.is_none() {
        log::warn!(target: TARGET, "OUTPUT_DIR is empty: no checkpoint, no log and no result is kept");
    }
    if let Some(dir) = program.output_dir.as_ref().filter(|_| is_main_process()) {
        remove_leftovers(dir);
        let path = dir.join("config.yml");
        log::info!(target: TARGET, "Saving config into: {}", path.display());
        write_atomically(&path, program.cfg.dump().as_bytes())?;
    }
    Ok(())
}

fn train(program: &Program, args: &Args, registries: &Registries) -> Result<GeneralizedRcnn> {
    let cfg = &program.cfg;
    let (parameters, model) = program.build_model(registries)?;
    if !args.skip_test || cfg.solver.test_period > 0 {
        program
            .check_test(registries)
            .context("DATASETS.TEST, which is tested after the training without --skip-test")?;
    }
    let model = args.backend.format(model)?;
    let save_dir = program.output_dir.as_deref();
    let checkpointer = DetectronCheckpointer::new(cfg, &parameters, save_dir).strict(args.strict);
    let mut start = Start::load(program, &parameters, &checkpointer, model.precision())?;
    let (mut data_loader, mut data_loader_val) = data_loaders(program, &start, registries)?;
    let setting = RunSetting::new(cfg, data_loader.dataset().len());
    if start.compare(&setting) {
        (data_loader, data_loader_val) = data_loaders(program, &start, registries)?;
    }
    if let Some(random) = start.exact.as_ref().and_then(|exact| exact.random(get_rank())) {
        set_random_state(random, program.device)?;
    }
    let state = TrainingState::new(
        checkpointer.model_state(),
        (start.optimizer, start.scheduler, start.scaler),
        start.iteration,
        (data_loader.state(), setting),
        program.device,
        save_dir.filter(|_| is_main_process()),
    )?;
    do_train(&Training {
        cfg,
        model: &model,
        device: program.device,
        data_loader: &data_loader,
        data_loader_val: data_loader_val.as_ref(),
        state: &state,
    })?;
    Ok(model)
}

/// What a training starts from, besides the weights.
struct Start {
    optimizer: Sgd,
    scheduler: WarmupMultiStepLr,
    scaler: Option<GradScaler>,
    /// Iterations that are done.
    iteration: i64,
    /// Where random numbers and the order of the data go on from the run so far.
    exact: Option<Restored>,
}

impl Start {
    /// Loads `last_checkpoint`, else `MODEL.WEIGHT`, into `parameters` and into a new optimizer and scheduler. All
    /// processes of a job do so together.
    fn load(
        program: &Program,
        parameters: &Parameters,
        checkpointer: &DetectronCheckpointer,
        precision: Precision,
    ) -> Result<Self> {
        let mut optimizer = make_optimizer(&program.cfg, parameters);
        let mut scheduler = make_lr_scheduler(&program.cfg, &mut optimizer)?;
        let loaded = checkpointer.load(Some(&program.cfg.model.weight), true)?;
        let initial = loaded.report.as_ref().map(|report| report.initial_names()).unwrap_or_default();
        if let Some(state) = &loaded.optimizer {
            optimizer.load_state_dict_without(state, &initial).context("loading the optimizer's state")?;
        }
        if let Some(state) = &loaded.scheduler {
            scheduler.load_state_dict(state).context("loading the scheduler's state")?;
        }
        let iteration = loaded.iteration.unwrap_or(0).max(0);
        agree(parameters, iteration)?;
        warn_of_solver(&program.cfg, &loaded, &optimizer, &scheduler);
        if let (Some(iteration), false) = (loaded.iteration, loaded.resumed) {
            let max_iter = program.cfg.solver.max_iter;
            let file = loaded.file.as_deref().unwrap_or(Path::new(&program.cfg.model.weight)).display();
            let alone = format!("convert_weights {file} START.pth --trim optimizer, and MODEL.WEIGHT START.pth");
            if iteration >= max_iter {
                bail!(
                    "MODEL.WEIGHT is a checkpoint of iteration {iteration}, after which the training would go on, and \
                     SOLVER.MAX_ITER is {max_iter}: nothing is left to train. To begin at 0 with its weights alone: {alone}"
                );
            }
            log::warn!(
                target: TARGET,
                "MODEL.WEIGHT is a checkpoint of iteration {iteration}: as in the original the training goes on after \
                 it, with its optimizer and rates. To begin at 0 with its weights alone: {alone}"
            );
        }
        let exact = restored(&loaded)?;
        let scaler = (precision == Precision::Float16)
            .then(|| exact.as_ref().and_then(|exact| exact.scaler).unwrap_or_default());
        let exact = exact.filter(|_| initial.is_empty()).filter(|exact| is_same_run(program, exact));
        Ok(Self { optimizer, scheduler, scaler, iteration, exact })
    }

    /// Says how the run goes on with these images and keys. True if the order of the data cannot do so, and starts
    /// anew.
    fn compare(&mut self, setting: &RunSetting) -> bool {
        let before = self.exact.as_ref().and_then(|exact| exact.setting.as_ref());
        let changes = before.map(|before| before.changes(setting)).unwrap_or_default();
        let is_exact = before.is_some() && changes.is_empty();
        for change in &changes {
            log::warn!(target: TARGET, "{} is {}, in the run so far it was {}", change.key, change.now, change.before);
        }
        let starts_anew = changes.iter().any(|change| change.is_of_order());
        if starts_anew {
            self.exact = None;
        }
        let how = match &self.exact {
            Some(_) if is_exact => "exactly as a run that never stopped",
            Some(_) => "with the order of the data and the random numbers of the run so far",
            None => "with a new order of the data",
        };
        if self.iteration > 0 {
            log::info!(target: TARGET, "Continuing after iteration {}, {how}", self.iteration);
        }
        starts_anew
    }
}

/// Names the keys of `SOLVER` for which a checkpoint's value holds and not the configured one.
fn warn_of_solver(cfg: &Config, loaded: &Loaded, optimizer: &Sgd, scheduler: &WarmupMultiStepLr) {
    let in_force = Config { solver: settings_in_force(&cfg.solver, optimizer, scheduler), ..cfg.clone() }.to_node();
    let configured = cfg.to_node();
    let mut differ = false;
    for ((key, in_force), (_, configured)) in in_force.leaves().into_iter().zip(configured.leaves()) {
        if in_force != configured {
            differ = true;
            log::warn!(
                target: TARGET,
                "{key} is {configured} in the configuration and {in_force} in the checkpoint, whose value holds, as in the \
                 original"
            );
        }
    }
    if let Some(file) = loaded.file.as_ref().filter(|_| differ) {
        log::warn!(
            target: TARGET,
            "To train with the configuration's values: convert_weights {} START.pth --trim optimizer, and MODEL.WEIGHT \
             START.pth{}; iterations are counted from 0 then",
            file.display(),
            if loaded.resumed { " with another OUTPUT_DIR" } else { "" }
        );
    }
}

/// Gives every process the weights of rank 0.
///
/// # Errors
/// The processes go on from different iterations, or one of them is lost.
fn agree(parameters: &Parameters, iteration: i64) -> Result<()> {
    let mut tensors: Vec<_> = parameters.state().into_iter().map(|entry| entry.tensor).collect();
    comm::broadcast(&mut tensors)?;
    let first = comm::broadcast_number(iteration as u64)?;
    ensure!(
        iteration as u64 == first,
        "rank 0 goes on after iteration {first}, rank {} after iteration {iteration}: OUTPUT_DIR must be one folder that \
         all machines share",
        get_rank()
    );
    Ok(())
}

/// The loader for training, and that for validation if there is one.
fn data_loaders(program: &Program, start: &Start, registries: &Registries) -> Result<(DataLoader, Option<DataLoader>)> {
    let data = start.exact.as_ref().map(|exact| &exact.data);
    let options = LoaderOptions {
        is_train: true,
        start_iter: start.iteration as u64,
        state: data.cloned(),
        seed: data.map_or(program.seed, |data| data.seed),
        ..program.loader_options(registries)
    };
    let data_loader = make_data_loader(&program.cfg, &options)?.pop().context("DATASETS.TRAIN names no data set")?;
    if program.cfg.solver.test_period <= 0 {
        return Ok((data_loader, None));
    }
    let options = LoaderOptions { is_for_period: true, ..program.loader_options(registries) };
    Ok((data_loader, make_data_loader(&program.cfg, &options)?.pop()))
}

/// Whether seed and number of processes are those of the run so far; says which is not.
fn is_same_run(program: &Program, exact: &Restored) -> bool {
    let other_seed = program.seed_given && exact.data.seed != program.seed;
    if other_seed {
        log::warn!(
            target: TARGET,
            "--seed {} is not the seed {} of the run so far: random numbers and the order of the data start anew",
            program.seed,
            exact.data.seed
        );
    }
    let other_world_size = exact.world_size() != get_world_size();
    if other_world_size {
        log::warn!(
            target: TARGET,
            "the run so far had {} processes, now there are {}: random numbers and the order of the data start anew",
            exact.world_size(),
            get_world_size()
        );
    }
    !other_seed && !other_world_size
}
