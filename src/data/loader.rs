//! Loading batches ahead of their use in worker threads.
//!
//! A worker reads, transforms and collates whole batches, for a GPU straight into pinned memory. Batches come out in
//! the order of the sampler and augmentations are drawn per image, so neither depends on the number of workers.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{anyhow, Context, Result};
use crossbeam_channel::{bounded, Receiver, Sender};

use super::collate_batch::{Batch, Collator};
use super::datasets::{Dataset, Sample};
use super::samplers::{BatchSampler, IterationBasedBatchSampler, Pass};
use super::transforms::{Compose, Transform, TransformRng};
use crate::utils::miscellaneous::panic_message;

/// Batches that each worker may be ahead.
const PREFETCH: usize = 2;

/// What a checkpoint keeps of a training loader, so that a resumed run sees the images it would have seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderState {
    /// The run's seed.
    pub seed: u64,
    /// The iteration at which the order of images was begun.
    pub begun_at: u64,
}

/// Which batches a loader gives.
pub enum Order {
    /// Training: passes until a number of iterations is reached; the first `skip` batches were already used.
    Iterations {
        /// The batches of all passes.
        sampler: IterationBasedBatchSampler,
        /// Batches at the beginning that are left out.
        skip: usize,
    },
    /// Testing: one pass.
    OnePass(Arc<dyn BatchSampler>),
}

/// Loads a data set batch by batch.
pub struct DataLoader {
    source: Arc<Source>,
    order: Order,
    len: usize,
    num_workers: usize,
    state: LoaderState,
}

/// What workers share.
struct Source {
    dataset: Arc<dyn Dataset>,
    transforms: Compose,
    collator: Collator,
    seed: u64,
}

type Job = (usize, Pass, Vec<usize>);
type Loaded = (usize, Result<Batch>);

impl DataLoader {
    /// `seed` decides augmentations; `len` is what [`len`](Self::len) reports; without workers, batches are loaded by
    /// the thread that asks for them.
    pub fn new(
        dataset: Arc<dyn Dataset>,
        transforms: Compose,
        collator: Collator,
        order: Order,
        len: usize,
        num_workers: usize,
        seed: u64,
    ) -> Self {
        let source = Arc::new(Source { dataset, transforms, collator, seed });
        Self { source, order, len, num_workers, state: LoaderState { seed, begun_at: 0 } }
    }

    /// The same loader with the state that a checkpoint should keep.
    pub fn with_state(self, state: LoaderState) -> Self {
        Self { state, ..self }
    }

    /// What is loaded.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.source.dataset
    }

    /// Training: the number of iterations, `SOLVER.MAX_ITER`. Testing: the number of batches.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to load.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What to keep in a checkpoint.
    pub fn state(&self) -> LoaderState {
        self.state.clone()
    }

    /// Starts loading. Dropping the iterator stops it.
    pub fn iter(&self) -> Batches {
        let order: Box<dyn Iterator<Item = Result<(Pass, Vec<usize>)>> + Send> = match &self.order {
            Order::Iterations { sampler, skip } => Box::new(sampler.iter().skip(*skip)),
            Order::OnePass(sampler) => match sampler.batches(Pass::default()) {
                Ok(batches) => Box::new(batches.into_iter().map(|batch| Ok((Pass::default(), batch)))),
                Err(error) => Box::new(std::iter::once(Err(error))),
            },
        };
        let (order, workers) = match Workers::start(&self.source, self.num_workers) {
            Ok(workers) => (order, workers),
            Err(error) => (Box::new(std::iter::once(Err(error))) as _, None),
        };
        Batches {
            source: self.source.clone(),
            order,
            workers,
            asked: 0,
            given: 0,
            early: BTreeMap::new(),
            ended: false,
        }
    }
}

impl Source {
    fn load(&self, pass: Pass, indices: &[usize]) -> Result<Batch> {
        let samples = indices.iter().map(|&index| self.sample(pass, index)).collect::<Result<Vec<_>>>()?;
        self.collator.batch(samples)
    }

    fn sample(&self, pass: Pass, index: usize) -> Result<Sample> {
        let load = || -> Result<Sample> {
            let sample = self.dataset.get(index)?;
            let mut rng = TransformRng::new(self.seed, pass.iteration, index);
            let target = sample.target;
            let (image, target) = self.transforms.apply(sample.image, Some(target), &mut rng)?;
            let target = target.context("a transform lost the image's target")?;
            Ok(Sample { image, target, index: sample.index })
        };
        guarded(load)
            .with_context(|| format!("cannot load image {index}, {}", self.dataset.image_path(index).display()))
    }
}

/// Turns a panic, in a user's data set for example, into an error: it must not leave the program waiting for the batch
/// of a dead worker.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let caught = catch_unwind(AssertUnwindSafe(work));
    caught.unwrap_or_else(|panic| Err(anyhow!("panic: {}", panic_message(panic.as_ref()))))
}

/// The worker threads of one iteration over a loader; they end when their jobs do.
struct Workers {
    jobs: Option<Sender<Job>>,
    loaded: Receiver<Loaded>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// No workers if `number` is 0.
    fn start(source: &Arc<Source>, number: usize) -> Result<Option<Self>> {
        if number == 0 {
            return Ok(None);
        }
        let (jobs, work) = bounded::<Job>(number * PREFETCH);
        let (done, loaded) = bounded::<Loaded>(number * PREFETCH);
        let mut workers = Self { jobs: Some(jobs), loaded, threads: Vec::with_capacity(number) };
        for worker in 0..number {
            let (source, work, done) = (source.clone(), work.clone(), done.clone());
            let run = move || {
                for (number, pass, indices) in work {
                    if done.send((number, guarded(|| source.load(pass, &indices)))).is_err() {
                        return;
                    }
                }
            };
            let thread = thread::Builder::new().name(format!("loader {worker}")).spawn(run);
            workers.threads.push(thread.with_context(|| {
                format!("the system gives no thread beyond {worker} to DATALOADER.NUM_WORKERS {number}: set it lower")
            })?);
        }
        Ok(Some(workers))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Without a receiver each worker returns after the batch that it is loading.
        self.jobs = None;
        self.loaded = bounded(0).1;
        for thread in self.threads.drain(..) {
            // A worker has nothing to report beyond what it sent.
            let _ = thread.join();
        }
    }
}

/// Iterator over the batches of a [`DataLoader`]. It ends after the first error.
pub struct Batches {
    source: Arc<Source>,
    order: Box<dyn Iterator<Item = Result<(Pass, Vec<usize>)>> + Send>,
    workers: Option<Workers>,
    /// Batches handed to workers.
    asked: usize,
    /// Batches given to the caller.
    given: usize,
    /// Batches that were ready before their turn.
    early: BTreeMap<usize, Result<Batch>>,
    ended: bool,
}

impl Batches {
    fn load_next(&mut self) -> Option<Result<Batch>> {
        let Some(workers) = &self.workers else {
            return self.order.next().map(|job| job.and_then(|(pass, indices)| self.source.load(pass, &indices)));
        };
        let jobs = workers.jobs.as_ref()?;
        while self.asked - self.given < workers.threads.len() * PREFETCH {
            match self.order.next() {
                Some(Ok((pass, indices))) => jobs.send((self.asked, pass, indices)).ok()?,
                Some(Err(error)) => drop(self.early.insert(self.asked, Err(error))),
                None => break,
            }
            self.asked += 1;
        }
        if self.given == self.asked {
            return None;
        }
        while !self.early.contains_key(&self.given) {
            let (number, batch) = match workers.loaded.recv() {
                Ok(loaded) => loaded,
                Err(_) => return Some(Err(anyhow!("the loader's worker threads ended early"))),
            };
            self.early.insert(number, batch);
        }
        let batch = self.early.remove(&self.given);
        self.given += 1;
        batch
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.ended {
            return None;
        }
        let batch = self.load_next();
        if !matches!(batch, Some(Ok(_))) {
            self.ended = true;
            self.workers = None;
        }
        batch
    }
}

#[cfg(test)]
mod tests;
