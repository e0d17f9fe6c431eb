//! What `train_net` and `test_net` do before they differ.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;

use anyhow::{bail, Context, Result};
use tch::Device;

use super::{BackendArgs, ConfigArgs, DistributedArgs, Registries};
use crate::config::paths_catalog::DatasetCatalog;
use crate::config::Config;
use crate::data::build::check_test_data;
use crate::data::{images_per_gpu, make_data_loader, LoaderOptions};
use crate::engine::bbox_aug::BboxAug;
use crate::engine::device::parse_device;
use crate::engine::inference;
use crate::ffi;
use crate::layers::parameters::Parameters;
use crate::layers::Precision;
use crate::modeling::detector::{build_detection_model, GeneralizedRcnn};
use crate::utils::atomic_file::remove_leftovers;
use crate::utils::collect_env::collect_env_info;
use crate::utils::comm::{self, get_local_rank, get_rank, get_world_size};
use crate::utils::logger::setup_logger;
use crate::utils::miscellaneous::mkdir;
use crate::utils::rendezvous::tasks_without_srun;

/// Name of the programs' own log lines.
pub(super) const TARGET: &str = "maskrcnn_benchmark";

/// Meets the job's other processes. Gives this one's device, ready for use: with `MODEL.DEVICE cuda` each has its own.
///
/// # Errors
/// A device that cannot be used, or a job that does not come together.
pub(super) fn join_job(device: &str, distributed: &DistributedArgs, backend: &BackendArgs) -> Result<Device> {
    // Before all else that asks libtorch about CUDA.
    let mut chosen = parse_device(device)?;
    backend.apply()?;
    comm::init_process_group(distributed.local_rank, distributed.timeout(), distributed.slow_after())?;
    if device == "cuda" {
        chosen = parse_device(&format!("cuda:{}", get_local_rank()))?;
    }
    if let Device::Cuda(index) = chosen {
        ffi::cuda_set_device(index)?;
        comm::add_nccl(distributed.timeout())?;
    }
    Ok(chosen)
}

/// Seeds libtorch's default generators, each process of a job differently.
pub(super) fn seed_generator(seed: u64) {
    tch::manual_seed(seed.wrapping_add(get_rank() as u64) as i64);
}

/// A program that has its configuration, its log and its seed.
pub(super) struct Program {
    pub(super) cfg: Config,
    pub(super) device: Device,
    pub(super) seed: u64,
    /// True when the seed was given on the command line.
    pub(super) seed_given: bool,
    /// `OUTPUT_DIR`; `None` when it is empty.
    pub(super) output_dir: Option<PathBuf>,
}

impl Program {
    /// Reads the configuration, meets the job's other processes, opens the log (in `OUTPUT_DIR` when `log_to_file`),
    /// draws a seed where none is given.
    pub(super) fn start(
        args: &ConfigArgs,
        (distributed, backend): (&DistributedArgs, &BackendArgs),
        all_args: &dyn std::fmt::Debug,
        log_to_file: bool,
    ) -> Result<Self> {
        ffi::keep_freed_memory();
        let cfg = args.load()?;
        cfg.dtype.parse::<Precision>()?;
        let device = join_job(&cfg.model.device, distributed, backend)?;
        let output_dir = (!cfg.output_dir.is_empty()).then(|| PathBuf::from(&cfg.output_dir));
        if let Some(dir) = &output_dir {
            mkdir(dir).context("OUTPUT_DIR")?;
        }
        setup_logger(output_dir.as_deref().filter(|_| log_to_file), get_rank())?;
        log::info!(target: TARGET, "Using {} processes", get_world_size());
        if let Some(topology) = comm::describe() {
            log::info!(target: TARGET, "This is {topology}");
        }
        if let Some(note) = tasks_without_srun(|name| std::env::var(name).ok()) {
            log::warn!(target: TARGET, "{note}");
        }
        log::info!(target: TARGET, "{all_args:?}");
        log::info!(target: TARGET, "Collecting env info (might take some time)");
        log::info!(target: TARGET, "\n{}", collect_env_info());
        let seed = comm::broadcast_number(args.seed.unwrap_or_else(draw_seed))?;
        let how = if args.seed.is_some() { "given" } else { "drawn" };
        log::info!(target: TARGET, "Seed: {seed} ({how})");
        seed_generator(seed);
        Ok(Self { cfg, device, seed, seed_given: args.seed.is_some(), output_dir })
    }

    pub(super) fn build_model(&self, registries: &Registries) -> Result<(Parameters, GeneralizedRcnn)> {
        let parameters = Parameters::new(self.device);
        let model = build_detection_model(&self.cfg, &parameters.root(), &registries.models)?;
        Ok((parameters, model))
    }

    /// See [`loader_options`].
    pub(super) fn loader_options<'a>(&self, registries: &'a Registries) -> LoaderOptions<'a> {
        loader_options(self.seed, self.device, registries)
    }

    /// What [`run_test`](Self::run_test) would fail at after hours of training: how batches are shared, how images are
    /// shown to the network, data sets, their ground truth.
    pub(super) fn check_test(&self, registries: &Registries) -> Result<()> {
        if self.cfg.datasets.test.is_empty() {
            return Ok(());
        }
        self.test_names()?;
        images_per_gpu(&self.cfg, false, get_world_size())?;
        if self.cfg.test.bbox_aug.enabled {
            BboxAug::new(&self.cfg)?;
        }
        let check = || check_test_data(&self.cfg, &self.loader_options(registries));
        comm::main_process_works("opening DATASETS.TEST", check)?;
        Ok(())
    }

    /// The names under which the data sets of `DATASETS.TEST` have their results.
    ///
    /// # Errors
    /// An unknown data set, or two of one name: the results of one would replace those of the other.
    fn test_names(&self) -> Result<Vec<String>> {
        let catalog = DatasetCatalog::load(&self.cfg.paths_catalog)?;
        let mut names: Vec<String> = Vec::new();
        for entry in self.cfg.datasets.test.iter() {
            let name = catalog.get(entry)?.name;
            if let Some(at) = names.iter().position(|earlier| *earlier == name) {
                bail!(
                    "DATASETS.TEST: the results of {entry} and of {} would go to one folder, inference/{name}. Name each \
                     data set once; an entry that gives its files takes a name of its own: 'NAME=coco:…'",
                    self.cfg.datasets.test[at]
                );
            }
            names.push(name);
        }
        Ok(names)
    }

    /// Evaluates on every data set of `DATASETS.TEST`; results go to `OUTPUT_DIR/inference/<data set>`.
    pub(super) fn run_test(&self, model: &GeneralizedRcnn, registries: &Registries) -> Result<()> {
        if self.cfg.datasets.test.is_empty() {
            log::warn!(target: TARGET, "DATASETS.TEST names no data set: nothing is tested");
            return Ok(());
        }
        let names = self.test_names()?;
        let data_loaders = make_data_loader(&self.cfg, &self.loader_options(registries))?;
        for (data_loader, name) in data_loaders.iter().zip(names) {
            let folder = self.output_dir.as_ref().map(|dir| dir.join("inference").join(&name));
            if let Some(folder) = &folder {
                mkdir(folder)?;
                if comm::is_main_process() {
                    remove_leftovers(folder);
                }
            }
            inference(&self.cfg, model, data_loader, &name, self.device, folder.as_deref())?;
        }
        Ok(())
    }
}

/// A loader's options for testing; the caller changes what is different for training.
pub(super) fn loader_options(seed: u64, device: Device, registries: &Registries) -> LoaderOptions<'_> {
    LoaderOptions {
        is_train: false,
        is_for_period: false,
        device,
        rank: get_rank(),
        world_size: get_world_size(),
        start_iter: 0,
        state: None,
        seed,
        datasets: &registries.datasets,
        transforms: &registries.transforms,
    }
}

/// A number that differs from run to run, of a size that is easy to copy from the log.
fn draw_seed() -> u64 {
    RandomState::new().build_hasher().finish() % 1_000_000_000
}
