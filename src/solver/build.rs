//! The solver that a configuration asks for (solver/build.py).

use anyhow::{Context, Result};

use super::lr_scheduler::WarmupMultiStepLr;
use super::sgd::{GroupRates, Sgd};
use crate::config::Config;
use crate::layers::parameters::Parameters;

/// SGD over the trainable parameters, one group each.
pub fn make_optimizer(cfg: &Config, parameters: &Parameters) -> Sgd {
    let solver = &cfg.solver;
    let rates = GroupRates {
        base_lr: solver.base_lr,
        bias_lr_factor: solver.bias_lr_factor as f64,
        weight_decay: solver.weight_decay,
        weight_decay_bias: solver.weight_decay_bias as f64,
    };
    Sgd::new(rates.groups(parameters.trainable()), solver.momentum)
}

/// The schedule, at its first position.
///
/// # Errors
/// `SOLVER.STEPS` out of order, an unknown `SOLVER.WARMUP_METHOD`.
pub fn make_lr_scheduler(cfg: &Config, optimizer: &mut Sgd) -> Result<WarmupMultiStepLr> {
    let solver = &cfg.solver;
    WarmupMultiStepLr::new(
        optimizer,
        &solver.steps,
        solver.gamma,
        solver.warmup_factor,
        solver.warmup_iters,
        solver.warmup_method.parse().context("SOLVER.WARMUP_METHOD")?,
    )
}
