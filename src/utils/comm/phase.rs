//! Where this process is in its work, noted in memory for whoever wants to tell.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::utils::fault;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the first iteration.
    Start,
    /// Waits for the next batch.
    DataLoading,
    /// Until the losses are there.
    Forward,
    /// Until its own gradients are there.
    Backward,
    /// Its own gradients are there; those of the others are waited for.
    AllReduce,
    /// The optimizer's step.
    Update,
    /// Rank 0 writes.
    Checkpoint,
    /// Detections on the images of a data set.
    Testing,
    /// The detections of all processes come together.
    Gather,
    /// Rank 0 alone.
    Evaluation,
}

impl Phase {
    /// In words, as logs and fault points have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::DataLoading => "data loading",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::AllReduce => "all-reduce",
            Self::Update => "update",
            Self::Checkpoint => "checkpoint",
            Self::Testing => "testing",
            Self::Gather => "gather",
            Self::Evaluation => "evaluation",
        }
    }
}

/// Where this process is.
#[derive(Clone, Copy)]
pub(super) struct Here {
    iteration: i64,
    phase: Phase,
    /// Since when it has done nothing but wait for the others.
    pub(super) waits_since: Option<Instant>,
}

impl Here {
    pub(super) fn now() -> Self {
        *here()
    }

    /// Whether what it does is in vain when another process is lost. Rank 0's evaluation, for which the others only
    /// wait, is not.
    pub(super) fn needs_the_others(&self) -> bool {
        self.phase != Phase::Evaluation
    }

    /// Iteration and phase.
    pub(super) fn place(&self) -> String {
        match self.iteration {
            0 => self.phase.name().into(),
            iteration => format!("iteration {iteration}, {}", self.phase.name()),
        }
    }
}

static HERE: Mutex<Here> = Mutex::new(Here { iteration: 0, phase: Phase::Start, waits_since: None });

fn here() -> MutexGuard<'static, Here> {
    HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This process begins the iteration, counted from 1, with loading its data.
pub fn begin_iteration(iteration: i64) {
    here().iteration = iteration;
    enter(Phase::DataLoading);
}

/// The iteration that this process is in; 0 before the first.
pub fn iteration() -> i64 {
    here().iteration
}

/// The phase that this process is in, and the iteration and the phase in words (`iteration 5, forward`).
pub fn whereabouts() -> (Phase, String) {
    let here = Here::now();
    (here.phase, here.place())
}

/// This process begins a phase.
pub fn enter(phase: Phase) {
    {
        let mut here = here();
        (here.phase, here.waits_since) = (phase, None);
    }
    fault::reach(phase.name());
}

/// For [`Reducer::new`](crate::ffi::Reducer::new).
pub(super) extern "C" fn gradients_computed() {
    enter(Phase::AllReduce);
    here().waits_since = Some(Instant::now());
}

/// How long this process has waited for the others in the all-reduce that is running or has just ended.
pub fn all_reduce_wait() -> Duration {
    let here = here();
    here.waits_since.filter(|_| here.phase == Phase::AllReduce).map_or(Duration::ZERO, |since| since.elapsed())
}

/// Runs what ends only when the other processes have come as far.
pub(super) fn waiting<T>(operation: impl FnOnce() -> T) -> T {
    here().waits_since = Some(Instant::now());
    let result = operation();
    here().waits_since = None;
    result
}
