//! A step schedule with a warm-up (solver/lr_scheduler.py), whose state is torch's.

use std::fmt;
use std::str::FromStr;

use anyhow::{ensure, Context, Result};

use super::sgd::Sgd;
use crate::checkpoint::{Dict, Value};
use crate::config::registry::unknown_name;

/// How the rate comes up to its full value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmupMethod {
    /// `SOLVER.WARMUP_FACTOR` of it until `SOLVER.WARMUP_ITERS`.
    Constant,
    /// Evenly from `SOLVER.WARMUP_FACTOR` to 1.
    Linear,
}

impl FromStr for WarmupMethod {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "constant" => Ok(Self::Constant),
            "linear" => Ok(Self::Linear),
            _ => Err(unknown_name("SOLVER.WARMUP_METHOD", name, ["constant", "linear"])),
        }
    }
}

impl fmt::Display for WarmupMethod {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
        })
    }
}

/// Multiplies the rate by `gamma` at every milestone, and by a factor that grows to 1 over the first iterations.
#[derive(Clone, Debug)]
pub struct WarmupMultiStepLr {
    pub(super) milestones: Vec<i64>,
    pub(super) gamma: f64,
    pub(super) warmup_factor: f64,
    pub(super) warmup_iters: i64,
    pub(super) warmup_method: WarmupMethod,
    pub(super) base_lrs: Vec<f64>,
    last_epoch: i64,
}

impl WarmupMultiStepLr {
    /// Starts at position 0, whose rates `optimizer` gets.
    ///
    /// # Errors
    /// Milestones out of order.
    pub fn new(
        optimizer: &mut Sgd,
        milestones: &[i64],
        gamma: f64,
        warmup_factor: f64,
        warmup_iters: i64,
        warmup_method: WarmupMethod,
    ) -> Result<Self> {
        ensure!(milestones.is_sorted(), "SOLVER.STEPS must be increasing integers, got {milestones:?}");
        let scheduler = Self {
            milestones: milestones.to_vec(),
            gamma,
            warmup_factor,
            warmup_iters,
            warmup_method,
            base_lrs: optimizer.groups().iter().map(|group| group.initial_lr).collect(),
            last_epoch: 0,
        };
        scheduler.apply(optimizer);
        Ok(scheduler)
    }

    /// The position: the number of steps taken.
    pub fn last_epoch(&self) -> i64 {
        self.last_epoch
    }

    /// What the base rates are multiplied by at a position.
    pub fn factor(&self, position: i64) -> f64 {
        let mut warmup = 1.0;
        if position < self.warmup_iters {
            warmup = match self.warmup_method {
                WarmupMethod::Constant => self.warmup_factor,
                WarmupMethod::Linear => {
                    let alpha = position as f64 / self.warmup_iters as f64;
                    self.warmup_factor * (1.0 - alpha) + alpha
                }
            };
        }
        let passed = self.milestones.partition_point(|milestone| *milestone <= position);
        warmup * self.gamma.powi(passed as i32)
    }

    /// Goes to the next position.
    pub fn step(&mut self, optimizer: &mut Sgd) {
        self.last_epoch += 1;
        self.apply(optimizer);
    }

    fn apply(&self, optimizer: &mut Sgd) {
        let factor = self.factor(self.last_epoch);
        for (group, base) in optimizer.groups_mut().iter_mut().zip(&self.base_lrs) {
            group.lr = base * factor;
        }
    }

    /// What `scheduler.state_dict()` holds in the original.
    pub fn state_dict(&self) -> Value {
        let floats = |list: Vec<f64>| Value::List(list.into_iter().map(Value::Float).collect());
        let factor = self.factor(self.last_epoch);
        let mut dict = Dict::new();
        dict.insert("milestones", Value::Tuple(self.milestones.iter().map(|m| Value::Int(*m)).collect()));
        dict.insert("gamma", self.gamma);
        dict.insert("warmup_factor", self.warmup_factor);
        dict.insert("warmup_iters", self.warmup_iters);
        dict.insert("warmup_method", self.warmup_method.to_string());
        dict.insert("base_lrs", floats(self.base_lrs.clone()));
        dict.insert("last_epoch", self.last_epoch);
        dict.insert("_step_count", self.last_epoch + 1);
        dict.insert("_is_initial", false);
        dict.insert("_get_lr_called_within_step", false);
        dict.insert("_last_lr", floats(self.base_lrs.iter().map(|base| base * factor).collect()));
        Value::Dict(dict)
    }

    /// Takes over everything that a state holds: the saved schedule wins over the configured one, as in the original.
    /// The optimizer's rates are in its own state.
    ///
    /// # Errors
    /// Names the field that is missing or of the wrong type.
    pub fn load_state_dict(&mut self, state: &Value) -> Result<()> {
        let dict = state.as_dict().context("the scheduler's state is no dictionary")?;
        let field = |name: &str| dict.get(name).with_context(|| format!("the scheduler's state has no {name:?}"));
        let wrong = |name: &str| format!("{name:?} in the scheduler's state has the wrong type");
        let float = |name: &str| field(name)?.as_float().with_context(|| wrong(name));
        let int = |name: &str| field(name)?.as_int().with_context(|| wrong(name));
        let milestones = field("milestones")?.as_list().with_context(|| wrong("milestones"))?;
        let milestones: Option<Vec<i64>> = milestones.iter().map(Value::as_int).collect();
        let base_lrs = field("base_lrs")?.as_list().with_context(|| wrong("base_lrs"))?;
        let base_lrs: Option<Vec<f64>> = base_lrs.iter().map(Value::as_float).collect();
        let base_lrs = base_lrs.with_context(|| wrong("base_lrs"))?;
        ensure!(
            base_lrs.len() == self.base_lrs.len(),
            "the scheduler's state is for {} parameters, the model has {}",
            base_lrs.len(),
            self.base_lrs.len()
        );
        *self = Self {
            milestones: milestones.with_context(|| wrong("milestones"))?,
            gamma: float("gamma")?,
            warmup_factor: float("warmup_factor")?,
            warmup_iters: int("warmup_iters")?,
            warmup_method: field("warmup_method")?
                .as_str()
                .with_context(|| wrong("warmup_method"))?
                .parse()
                .with_context(|| wrong("warmup_method"))?,
            base_lrs,
            last_epoch: int("last_epoch")?,
        };
        Ok(())
    }
}
