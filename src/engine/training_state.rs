//! What a checkpoint holds so that a run goes on exactly where it stopped: solver, random numbers, place in the data.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{bail, Context, Result};
use tch::{Device, Tensor};

use super::run_setting::RunSetting;
use crate::checkpoint::{save_snapshot, to_tensor, Contents, Dict, Loaded, ModelState, Value};
use crate::data::LoaderState;
use crate::ffi::Generator;
use crate::solver::{GradScaler, ParamGroup, Sgd, WarmupMultiStepLr};
use crate::utils::comm;

/// The state after the last completed iteration. It changes all at once, so that whoever holds the lock may save it.
pub struct Completed {
    /// It shares the model's parameters.
    pub optimizer: Sgd,
    /// It has taken a step for each iteration done.
    pub scheduler: WarmupMultiStepLr,
    /// With `DTYPE float16`.
    pub scaler: Option<GradScaler>,
    /// Iterations done.
    pub iteration: i64,
    /// State of libtorch's default generator, as `torch.get_rng_state()` has it, followed by that of the CUDA device's
    /// generator where training runs on one; in rank 0 of several processes the states of all of them, one row a rank.
    pub random: Tensor,
    /// Seed and place of the data loader.
    pub data: LoaderState,
    setting: RunSetting,
    model: ModelState,
    /// Iterations that the newest checkpoint holds.
    saved: Option<i64>,
}

/// [`Completed`], shared between the training loop and the thread that saves at a signal.
#[derive(Clone)]
pub struct TrainingState {
    completed: Arc<Mutex<Completed>>,
    device: Device,
    save_dir: Option<PathBuf>,
}

impl TrainingState {
    /// The state before the first iteration of this process. All processes of a job make theirs together.
    ///
    /// # Errors
    /// libtorch's generator cannot be read, or another process is lost.
    pub fn new(
        model: ModelState,
        (optimizer, scheduler, scaler): (Sgd, WarmupMultiStepLr, Option<GradScaler>),
        iteration: i64,
        (data, setting): (LoaderState, RunSetting),
        device: Device,
        save_dir: Option<&Path>,
    ) -> Result<Self> {
        let random = random_states(device)?;
        let saved = Some(iteration);
        let completed = Completed { optimizer, scheduler, scaler, iteration, random, data, setting, model, saved };
        Ok(Self { completed: Arc::new(Mutex::new(completed)), device, save_dir: save_dir.map(Path::to_owned) })
    }

    /// The state, which does not change while the guard lives.
    pub fn lock(&self) -> MutexGuard<'_, Completed> {
        self.completed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One update: optimizer, then scheduler, as upstream. Gradients must be there, scaled where there is a scaler. If
    /// one of them overflowed, the optimizer's part is left out (the scheduler's is not, as in the original), and the
    /// smaller scale of the next iteration is returned. All processes of a job take this step together.
    ///
    /// # Errors
    /// libtorch's generator cannot be read, another process is lost, or gradients overflow at every scale.
    pub fn step(&self) -> Result<Option<f64>> {
        // Before the lock is taken: waiting for other processes must not keep a signal from saving what is there.
        let random = random_states(self.device)?;
        let mut guard = self.lock();
        let completed = &mut *guard;
        let mut overflow = None;
        if let Some(scaler) = &mut completed.scaler {
            let finite = scaler.unscale(&completed.optimizer)?;
            scaler.update(finite)?;
            overflow = (!finite).then_some(scaler.scale());
        }
        if overflow.is_none() {
            completed.optimizer.step();
        }
        completed.scheduler.step(&mut completed.optimizer);
        completed.model.keep_buffers();
        completed.iteration += 1;
        completed.random = random;
        Ok(overflow)
    }

    /// Saves `<name>.pth` and points `last_checkpoint` at it; nothing without an output folder.
    ///
    /// # Errors
    /// What the file system says, or a weight that is not finite: such a checkpoint would replace a good one as the
    /// newest. Earlier checkpoints are untouched then.
    pub fn save(&self, name: &str) -> Result<Option<PathBuf>> {
        self.save_locked(&mut self.lock(), name)
    }

    /// Saves `model_<iteration>.pth` unless the newest checkpoint has this iteration already.
    ///
    /// # Errors
    /// As [`TrainingState::save`].
    pub fn save_if_new(&self) -> Result<Option<PathBuf>> {
        // One lock for the name and the content: the training goes on meanwhile.
        let mut completed = self.lock();
        if completed.saved == Some(completed.iteration) {
            return Ok(None);
        }
        let name = checkpoint_name(completed.iteration);
        self.save_locked(&mut completed, &name)
    }

    fn save_locked(&self, completed: &mut Completed, name: &str) -> Result<Option<PathBuf>> {
        let Some(save_dir) = &self.save_dir else { return Ok(None) };
        completed.check_weights()?;
        let path = save_snapshot(save_dir, name, &completed.snapshot()?)?;
        completed.saved = Some(completed.iteration);
        Ok(Some(path))
    }
}

fn random_states(device: Device) -> Result<Tensor> {
    comm::gather(random_state(device)?)
}

/// The states of the generators that a training on `device` draws from, as one row of bytes.
///
/// # Errors
/// What libtorch says.
pub fn random_state(device: Device) -> Result<Tensor> {
    let cpu = Generator::default_cpu()?.state()?;
    match device {
        Device::Cuda(index) => Ok(Tensor::cat(&[cpu, Generator::default_cuda(index)?.state()?], 0)),
        _ => Ok(cpu),
    }
}

/// Goes back to what [`random_state`] gave. A state without a part for the device leaves its generator alone.
///
/// # Errors
/// Bytes that are no such state.
pub fn set_random_state(state: &Tensor, device: Device) -> Result<()> {
    let rest = set_cpu_state(state, &mut Generator::default_cpu()?)?;
    match device {
        Device::Cuda(index) if rest.size()[0] > 0 => Generator::default_cuda(index)?.set_state(&rest),
        _ => Ok(()),
    }
}

/// Sets the CPU's generator; gives the part of the state behind its own.
fn set_cpu_state(state: &Tensor, generator: &mut Generator) -> Result<Tensor> {
    let (length, of_cpu) = (state.size()[0], generator.state()?.size()[0]);
    let own = of_cpu.min(length);
    generator.set_state(&state.narrow(0, 0, own))?;
    Ok(state.narrow(0, own, length - own))
}

/// `model_0002500`.
pub fn checkpoint_name(iteration: i64) -> String {
    format!("model_{iteration:07}")
}

impl Completed {
    /// Looks at all weights with one read from their device.
    fn check_weights(&self) -> Result<()> {
        let finite = |group: &ParamGroup| group.tensor.isfinite().all();
        let all: Vec<Tensor> = self.optimizer.groups().iter().map(finite).collect();
        if all.is_empty() || bool::try_from(Tensor::stack(&all, 0).all())? {
            return Ok(());
        }
        let broken = self.optimizer.groups().iter().zip(&all).find(|(_, all)| all.int64_value(&[]) == 0);
        let name = broken.map_or("", |(group, _)| &group.name);
        bail!("after iteration {} the weight {name} is not finite; it was not saved", self.iteration);
    }

    fn snapshot(&self) -> Result<Value> {
        let mut data = Dict::new();
        data.insert("seed", self.data.seed as i64);
        data.insert("begun_at", self.data.begun_at as i64);
        let mut training_state = Dict::new();
        training_state.insert("random", &self.random);
        training_state.insert("data", data);
        training_state.insert("setting", self.setting.state_dict());
        if let Some(scaler) = &self.scaler {
            training_state.insert("loss_scaler", scaler.state_dict());
        }
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
    /// [`random_state`] by rank.
    random: Vec<Tensor>,
    /// Seed and place of the data loader.
    pub data: LoaderState,
    /// What the run's iterations depended on; `None` where the checkpoint does not say so.
    pub setting: Option<RunSetting>,
    /// Of a run with `DTYPE float16`.
    pub scaler: Option<GradScaler>,
}

impl Restored {
    /// Number of processes that the run had.
    pub fn world_size(&self) -> usize {
        self.random.len()
    }

    /// [`random_state`] of the process of this rank, if there was one.
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
        let random = if random.dim() == 1 { vec![random] } else { random.f_unbind(0).ok()? };
        let data = state.get("data")?.as_dict()?;
        let number = |key: &str| data.get(key)?.as_int();
        let data = LoaderState { seed: number("seed")? as u64, begun_at: number("begun_at")? as u64 };
        let setting = state.get("setting").and_then(Value::as_dict).map(RunSetting::from_state_dict);
        Some(Restored { random, data, setting, scaler: None })
    };
    let file = || loaded.file.as_deref().unwrap_or(Path::new("the checkpoint")).display();
    let mut restored = read().with_context(|| format!("{}: its training_state is incomplete", file()))?;
    let scaler = state.get("loss_scaler").map(GradScaler::from_state_dict);
    restored.scaler = scaler.transpose().with_context(|| file().to_string())?;
    Ok(Some(restored))
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::layers::parameters::{Init, Parameters};
    use crate::solver::sgd::GroupRates;
    use crate::solver::WarmupMethod;
    use crate::utils::testing::generator;

    fn state(parameters: &Parameters, scaler: Option<GradScaler>) -> TrainingState {
        let rates = GroupRates { base_lr: 0.5, bias_lr_factor: 1.0, weight_decay: 0.0, weight_decay_bias: 0.0 };
        let mut optimizer = Sgd::new(rates.groups(parameters.trainable()), 0.9);
        let scheduler =
            WarmupMultiStepLr::new(&mut optimizer, &[10], 0.1, 0.1, 0, WarmupMethod::Constant).expect("a schedule");
        let data = (LoaderState { seed: 1, begun_at: 0 }, RunSetting::default());
        let model = ModelState::new(parameters);
        TrainingState::new(model, (optimizer, scheduler, scaler), 0, data, Device::Cpu, None).expect("a state")
    }

    #[test]
    fn an_overflow_leaves_the_weights_alone_and_halves_the_scale() {
        let parameters = Parameters::new(Device::Cpu);
        let weight = parameters.root().parameter("weight", &[2], Init::Const(1.0));
        let state = state(&parameters, Some(GradScaler::default()));
        let train = |factor: f64| {
            state.lock().optimizer.zero_grad();
            let scale = state.lock().scaler.map_or(1.0, |scaler| scaler.scale());
            (&weight * factor * scale).sum(Kind::Float).backward();
            state.step().expect("a step")
        };
        assert_eq!(train(f64::INFINITY), Some(32768.0));
        assert_eq!(Vec::<f32>::try_from(weight.detach()).unwrap(), [1.0, 1.0]);
        let done = |completed: &Completed| (completed.iteration, completed.scheduler.last_epoch());
        assert_eq!(done(&state.lock()), (1, 1));
        assert_eq!(train(1.0), None);
        assert_eq!(Vec::<f32>::try_from(weight.detach()).unwrap(), [0.5, 0.5]);
        assert_eq!(state.lock().scaler.map(|scaler| scaler.scale()), Some(32768.0));
    }

    #[test]
    fn a_weight_that_is_not_finite_is_named_and_not_saved() {
        let parameters = Parameters::new(Device::Cpu);
        let _ = parameters.root().sub("a").parameter("weight", &[2], Init::Const(1.0));
        let _ = parameters.root().sub("b").parameter("weight", &[2], Init::Const(f64::NAN));
        let error = state(&parameters, None).lock().check_weights().unwrap_err().to_string();
        assert!(error.contains("the weight b.weight is not finite"), "{error}");
    }

    #[test]
    fn random_numbers_go_on_from_a_state() {
        let _lock = generator();
        tch::manual_seed(3);
        let state = random_state(Device::Cpu).unwrap();
        let draw = || Vec::<f32>::try_from(Tensor::rand([5], (Kind::Float, Device::Cpu))).unwrap();
        let drawn = draw();
        assert_ne!(draw(), drawn);
        set_random_state(&state, Device::Cpu).unwrap();
        assert_eq!(draw(), drawn);
        // What a CUDA device's generator would get follows.
        let both = Tensor::cat(&[&state, &Tensor::from_slice(&[1u8, 2, 3])], 0);
        let mut own = Generator::new(1).unwrap();
        assert_eq!(set_cpu_state(&both, &mut own).unwrap(), Tensor::from_slice(&[1u8, 2, 3]));
        assert_eq!(own.rand(5).unwrap(), drawn);
        assert!(set_random_state(&Tensor::zeros([7], (Kind::Uint8, Device::Cpu)), Device::Cpu).is_err());
    }
}
