//! The solver that a configuration asks for (solver/build.py).

use anyhow::Result;

use super::lr_scheduler::WarmupMultiStepLr;
use super::sgd::{GroupRates, Sgd};
use crate::config::{Config, SolverConfig, Tuple};
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
        solver.warmup_method.parse()?,
    )
}

/// `SOLVER` as an optimizer and its schedule have it, which differs from `solver` once they have loaded a state.
pub fn settings_in_force(solver: &SolverConfig, optimizer: &Sgd, scheduler: &WarmupMultiStepLr) -> SolverConfig {
    let mut found = SolverConfig {
        gamma: scheduler.gamma,
        momentum: optimizer.momentum,
        steps: Tuple(scheduler.milestones.clone()),
        warmup_factor: scheduler.warmup_factor,
        warmup_iters: scheduler.warmup_iters,
        warmup_method: scheduler.warmup_method.to_string(),
        ..solver.clone()
    };
    let group = |is_bias: bool| {
        let groups = optimizer.groups().iter().zip(&scheduler.base_lrs);
        groups.map(|(group, base_lr)| (group, *base_lr)).find(|(group, _)| group.name.contains("bias") == is_bias)
    };
    if let Some((group, base_lr)) = group(false) {
        (found.base_lr, found.weight_decay) = (base_lr, group.weight_decay);
    }
    if let Some((group, base_lr)) = group(true) {
        if found.base_lr != 0.0 {
            found.bias_lr_factor = (base_lr / found.base_lr).round() as i64;
        }
        found.weight_decay_bias = group.weight_decay.round() as i64;
    }
    found
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::layers::parameters::Init;

    #[test]
    fn what_was_loaded_is_in_force() {
        let parameters = Parameters::new(Device::Cpu);
        for name in ["weight", "bias"] {
            let _ = parameters.root().parameter(name, &[2], Init::Const(1.0));
        }
        let solver = |cfg: &Config| {
            let mut optimizer = make_optimizer(cfg, &parameters);
            let scheduler = make_lr_scheduler(cfg, &mut optimizer).expect("a schedule");
            (optimizer, scheduler)
        };
        let mut saved = Config::default();
        saved.solver = SolverConfig {
            base_lr: 0.02,
            bias_lr_factor: 3,
            gamma: 0.5,
            momentum: 0.8,
            steps: Tuple(vec![4, 9]),
            warmup_factor: 0.25,
            warmup_iters: 3,
            warmup_method: "constant".into(),
            weight_decay: 0.003,
            weight_decay_bias: 1,
            ..saved.solver
        };
        let configured = Config::default();
        let (mut optimizer, mut scheduler) = solver(&configured);
        assert_eq!(settings_in_force(&configured.solver, &optimizer, &scheduler), configured.solver);
        let (other, schedule) = solver(&saved);
        optimizer.load_state_dict(&other.state_dict()).expect("an optimizer's state");
        scheduler.load_state_dict(&schedule.state_dict()).expect("a schedule's state");
        assert_eq!(settings_in_force(&configured.solver, &optimizer, &scheduler), saved.solver);
    }
}
