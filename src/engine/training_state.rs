//! What a checkpoint holds so that a run goes on exactly where it stopped: solver, random numbers, place in the data.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tch::Tensor;

use crate::checkpoint::{save_snapshot, to_tensor, Contents, Dict, Loaded, ModelState, Value};
use crate::data::LoaderState;
use crate::ffi::Generator;
use crate::solver::{Sgd, WarmupMultiStepLr};
use crate::utils::comm;

/// The state after the last completed iteration. It changes all at once, so that whoever holds the lock may save it.
pub struct Completed {
    pub optimizer: Sgd,
    pub scheduler: WarmupMultiStepLr,
    /// Iterations done.
    pub iteration: i64,
    /// State of libtorch's default generator, as `torch.get_rng_state()` has it; in rank 0 of several processes the
    /// states of all of them, one row a rank.
    pub random: Tensor,
    /// Seed and place of the data loader.
    pub data: LoaderState,
    model: ModelState,
    /// Iterations that the newest checkpoint holds.
    saved: Option<i64>,
}

/// [`Completed`], shared between the training loop and the thread that saves at a signal.
#[derive(Clone)]
pub struct TrainingState {
    completed: Arc<Mutex<Completed>>,
    save_dir: Option<PathBuf>,
}

impl TrainingState {
    /// The state before the first iteration of this process. All processes of a job make theirs together.
    ///
    /// # Errors
    /// libtorch's generator cannot be read, or another process is lost.
    pub fn new(
        model: ModelState,
        optimizer: Sgd,
        scheduler: WarmupMultiStepLr,
        iteration: i64,
        data: LoaderState,
        save_dir: Option<&Path>,
    ) -> Result<Self> {
        let random = random_states()?;
        let saved = Some(iteration);
        let completed = Completed { optimizer, scheduler, iteration, random, data, model, saved };
        Ok(Self { completed: Arc::new(Mutex::new(completed)), save_dir: save_dir.map(Path::to_owned) })
    }

    pub fn lock(&self) -> MutexGuard<'_, Completed> {
        self.completed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One update: optimizer, then scheduler, as upstream. Gradients must be there. All processes of a job take this
    /// step together.
    ///
    /// # Errors
    /// libtorch's generator cannot be read, or another process is lost.
    pub fn step(&self) -> Result<()> {
        // Before the lock is taken: waiting for other processes must not keep a signal from saving what is there.
        let random = random_states()?;
        let mut guard = self.lock();
        let completed = &mut *guard;
        completed.optimizer.step();
        completed.scheduler.step(&mut completed.optimizer);
        completed.model.keep_buffers();
        completed.iteration += 1;
        completed.random = random;
        Ok(())
    }

    /// Saves `<name>.pth` and points `last_checkpoint` at it; nothing without an output folder.
    ///
    /// # Errors
    /// What the file system says; earlier checkpoints are untouched then.
    pub fn save(&self, name: &str) -> Result<Option<PathBuf>> {
        let Some(save_dir) = &self.save_dir else { return Ok(None) };
        let mut completed = self.lock();
        let path = save_snapshot(save_dir, name, &completed.snapshot()?)?;
        completed.saved = Some(completed.iteration);
        Ok(Some(path))
    }

    /// Saves `model_<iteration>.pth` unless the newest checkpoint has this iteration already.
    ///
    /// # Errors
    /// As [`TrainingState::save`].
    pub fn save_if_new(&self) -> Result<Option<PathBuf>> {
        let (iteration, saved) = {
            let completed = self.lock();
            (completed.iteration, completed.saved)
        };
        if saved == Some(iteration) {
            return Ok(None);
        }
        self.save(&checkpoint_name(iteration))
    }
}

fn random_states() -> Result<Tensor> {
    comm::gather(Generator::default_cpu()?.state()?)
}

/// `model_0002500`.
pub fn checkpoint_name(iteration: i64) -> String {
    format!("model_{iteration:07}")
}

impl Completed {
    fn snapshot(&self) -> Result<Value> {
        let mut data = Dict::new();
        data.insert("seed", self.data.seed as i64);
        data.insert("begun_at", self.data.begun_at as i64);
        let mut training_state = Dict::new();
        training_state.insert("random", &self.random);
        training_state.insert("data", data);
        self.model.snapshot(&Contents {
            optimizer: Some(self.optimizer.state_dict()),
            scheduler: Some(self.scheduler.state_dict()),
            iteration: Some(self.iteration),
            training_state: Some(training_state),
        })
    }
}

/// What [`Completed`] had saved beyond the original's entries.
pub struct Restored {
    /// State of libtorch's default generator, by rank.
    random: Vec<Tensor>,
    /// Seed and place of the data loader.
    pub data: LoaderState,
}

impl Restored {
    /// Number of processes that the run had.
    pub fn world_size(&self) -> usize {
        self.random.len()
    }

    /// State of the default generator in the process of this rank, if there was one.
    pub fn random(&self, rank: usize) -> Option<&Tensor> {
        self.random.get(rank)
    }
}

/// The exact state of a loaded checkpoint; `None` where the checkpoint has none (the original wrote it).
///
/// # Errors
/// A state that is there but incomplete.
pub fn restored(loaded: &Loaded) -> Result<Option<Restored>> {
    let Some(state) = &loaded.training_state else { return Ok(None) };
    let read = || {
        let random = to_tensor(state.get("random")?.as_tensor()?).ok()?;
        let random = if random.dim() == 1 { vec![random] } else { random.unbind(0) };
        let data = state.get("data")?.as_dict()?;
        let number = |key: &str| data.get(key)?.as_int();
        let data = LoaderState { seed: number("seed")? as u64, begun_at: number("begun_at")? as u64 };
        Some(Restored { random, data })
    };
    let restored = read().with_context(|| {
        let file = loaded.file.as_deref().unwrap_or(Path::new("the checkpoint"));
        format!("{}: its training_state is incomplete", file.display())
    })?;
    Ok(Some(restored))
}
