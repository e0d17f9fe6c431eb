//! Stochastic gradient descent with momentum (torch.optim.SGD), one group of settings per parameter.

use anyhow::{ensure, Context, Result};
use tch::Tensor;

use crate::checkpoint::{to_tensor, Dict, Value};
use crate::ffi::{self, SgdParameter};

/// One parameter and its settings.
pub struct ParamGroup {
    /// The name in the model's `state_dict()`.
    pub name: String,
    /// The parameter; it is changed in place.
    pub tensor: Tensor,
    /// The rate in force.
    pub lr: f64,
    /// The rate that schedules start from.
    pub initial_lr: f64,
    /// What the parameter is multiplied with before it is added to its gradient.
    pub weight_decay: f64,
}

/// Rates by the original's rule: a name that contains "bias" anywhere, even a norm's, has its own rate and decay.
#[derive(Clone, Copy, Debug)]
pub struct GroupRates {
    /// `SOLVER.BASE_LR`.
    pub base_lr: f64,
    /// `SOLVER.BIAS_LR_FACTOR`.
    pub bias_lr_factor: f64,
    /// `SOLVER.WEIGHT_DECAY`.
    pub weight_decay: f64,
    /// `SOLVER.WEIGHT_DECAY_BIAS`.
    pub weight_decay_bias: f64,
}

impl GroupRates {
    /// One group per parameter, in order.
    pub fn groups(&self, parameters: Vec<(String, Tensor)>) -> Vec<ParamGroup> {
        let group = |(name, tensor): (String, Tensor)| {
            let (lr, weight_decay) = if name.contains("bias") {
                (self.base_lr * self.bias_lr_factor, self.weight_decay_bias)
            } else {
                (self.base_lr, self.weight_decay)
            };
            ParamGroup { name, tensor, lr, initial_lr: lr, weight_decay }
        };
        parameters.into_iter().map(group).collect()
    }
}

/// SGD with momentum: `v = momentum * v + (g + weight_decay * p)`, `p = p - lr * v`; the first `v` is the gradient.
pub struct Sgd {
    groups: Vec<ParamGroup>,
    pub(super) momentum: f64,
    momentum_buffers: Vec<Option<Tensor>>,
}

impl Sgd {
    /// Without momentum yet: the first step takes the gradient for it.
    pub fn new(groups: Vec<ParamGroup>, momentum: f64) -> Self {
        let momentum_buffers = groups.iter().map(|_| None).collect();
        Self { groups, momentum, momentum_buffers }
    }

    /// The parameters with their settings, in order.
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// The same, to change rates.
    pub fn groups_mut(&mut self) -> &mut [ParamGroup] {
        &mut self.groups
    }

    /// The trained parameters with their names, in order.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.groups.iter().map(|group| (group.name.clone(), group.tensor.shallow_clone())).collect()
    }

    /// The momentum of a parameter, once it has been stepped.
    pub fn momentum_buffer(&self, index: usize) -> Option<&Tensor> {
        self.momentum_buffers.get(index)?.as_ref()
    }

    /// The first group's rate, which the training log shows.
    pub fn lr(&self) -> f64 {
        self.groups.first().map_or(0.0, |group| group.lr)
    }

    /// Forgets the gradients, so that the next backward pass writes instead of adding.
    pub fn zero_grad(&mut self) {
        ffi::clear_gradients(self.groups.iter().map(|group| &group.tensor)).expect("parameters have gradients");
    }

    /// Multiplies existing gradients by `inverse_scale`; gives 1 where one of them is not finite, else 0.
    ///
    /// # Shapes
    /// `[1]`, float32, on the gradients' device.
    ///
    /// # Errors
    /// No parameter has a gradient.
    pub fn unscale_gradients(&self, inverse_scale: f64) -> Result<Tensor> {
        ffi::unscale_gradients(self.groups.iter().map(|group| &group.tensor), inverse_scale)
    }

    /// One update of every parameter that has a gradient, all of them in one call.
    pub fn step(&mut self) {
        let _no_grad = tch::no_grad_guard();
        let mut first = Vec::with_capacity(self.groups.len());
        for (group, buffer) in self.groups.iter().zip(&mut self.momentum_buffers) {
            let starts = self.momentum != 0.0 && buffer.is_none() && group.tensor.grad().defined();
            if starts {
                *buffer = Some(group.tensor.empty_like());
            }
            first.push(starts);
        }
        let parameters: Vec<_> = self
            .groups
            .iter()
            .zip(self.momentum_buffers.iter().zip(first))
            .filter(|(group, _)| group.tensor.grad().defined())
            .map(|(group, (buffer, first))| SgdParameter {
                parameter: &group.tensor,
                momentum_buffer: buffer.as_ref().filter(|_| self.momentum != 0.0),
                lr: group.lr,
                weight_decay: group.weight_decay,
                first,
            })
            .collect();
        ffi::sgd_step(&parameters, self.momentum).expect("gradients and momentum fit their parameters");
    }

    /// What `optimizer.state_dict()` holds in the original: momentum by parameter number, and the groups.
    pub fn state_dict(&self) -> Value {
        let mut state = Dict::new();
        for (index, buffer) in self.momentum_buffers.iter().enumerate() {
            if let Some(buffer) = buffer {
                let mut entry = Dict::new();
                entry.insert("momentum_buffer", buffer);
                state.insert(index as i64, entry);
            }
        }
        let group = |(index, group): (usize, &ParamGroup)| {
            let mut dict = Dict::new();
            dict.insert("lr", group.lr);
            dict.insert("weight_decay", group.weight_decay);
            dict.insert("momentum", self.momentum);
            dict.insert("dampening", 0);
            dict.insert("nesterov", false);
            dict.insert("maximize", false);
            dict.insert("foreach", Value::None);
            dict.insert("differentiable", false);
            dict.insert("fused", Value::None);
            dict.insert("initial_lr", group.initial_lr);
            dict.insert("params", vec![Value::Int(index as i64)]);
            Value::Dict(dict)
        };
        let mut dict = Dict::new();
        dict.insert("state", state);
        dict.insert("param_groups", self.groups.iter().enumerate().map(group).collect::<Vec<_>>());
        Value::Dict(dict)
    }

    /// Takes over momentum and settings. Parameters without momentum in the state start afresh.
    ///
    /// # Errors
    /// A state for another number of parameters, or momentum of another shape than its parameter (both are named).
    pub fn load_state_dict(&mut self, state: &Value) -> Result<()> {
        self.load_state_dict_without(state, &[])
    }

    /// As [`Sgd::load_state_dict`], but drops the momentum of the named parameters, whose weights were not loaded.
    ///
    /// # Errors
    /// As [`Sgd::load_state_dict`].
    pub fn load_state_dict_without(&mut self, state: &Value, skipped: &[&str]) -> Result<()> {
        let dict = state.as_dict().context("the optimizer's state is no dictionary")?;
        let groups =
            dict.get("param_groups").and_then(Value::as_list).context("the optimizer's state has no groups")?;
        ensure!(
            groups.len() == self.groups.len(),
            "the optimizer's state is for {} parameters, the model has {} trainable ones (another architecture, or another \
             MODEL.BACKBONE.FREEZE_CONV_BODY_AT)",
            groups.len(),
            self.groups.len()
        );
        let entries = dict.get("state").and_then(Value::as_dict).context("the optimizer's state has no momentum")?;
        let mut settings = Vec::with_capacity(groups.len());
        let mut buffers = Vec::with_capacity(groups.len());
        for (group, saved) in self.groups.iter().zip(groups) {
            let name = &group.name;
            let saved = saved.as_dict().with_context(|| format!("the optimizer's group of {name} is no dictionary"))?;
            let float = |key: &str| saved.get(key).and_then(Value::as_float);
            let lr = float("lr").with_context(|| format!("the optimizer's group of {name} has no rate"))?;
            let initial_lr = float("initial_lr").unwrap_or(group.initial_lr);
            settings.push((lr, initial_lr, float("weight_decay").unwrap_or(group.weight_decay)));
            let params = saved.get("params").and_then(Value::as_list).unwrap_or_default();
            let [param] = params else {
                anyhow::bail!("the optimizer's group of {name} has {} parameters instead of 1", params.len());
            };
            let key = param.as_int().with_context(|| format!("the optimizer's group of {name} has no number"))?;
            let entry = entries.entries.iter().find(|(k, _)| k.as_int() == Some(key));
            let momentum = entry.and_then(|(_, v)| v.as_dict()?.get("momentum_buffer")?.as_tensor());
            buffers.push(match momentum {
                Some(data) if !skipped.contains(&name.as_str()) => {
                    let expected = group.tensor.size();
                    ensure!(
                        data.shape() == expected,
                        "the momentum of {name} has shape {:?}, the parameter {expected:?}",
                        data.shape()
                    );
                    // Fused steps want it to lie in memory as the parameter does, which a file does not say.
                    let mut buffer = group.tensor.empty_like();
                    buffer.f_copy_(&to_tensor(data).with_context(|| name.clone())?).with_context(|| name.clone())?;
                    Some(buffer)
                }
                _ => None,
            });
        }
        let momentum = groups.first().and_then(|g| g.as_dict()?.get("momentum")?.as_float());
        self.momentum = momentum.unwrap_or(self.momentum);
        self.momentum_buffers = buffers;
        for (group, (lr, initial_lr, weight_decay)) in self.groups.iter_mut().zip(settings) {
            (group.lr, group.initial_lr, group.weight_decay) = (lr, initial_lr, weight_decay);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::ffi::channels_last;

    /// Values from -2 to 2 in no order.
    fn values(shape: &[i64], seed: i64) -> Tensor {
        let number = shape.iter().product::<i64>();
        let places = Tensor::arange(number, (Kind::Double, Device::Cpu));
        ((places * 12.9898 + seed as f64).sin() * 2.0).to_kind(Kind::Float).view(shape)
    }

    fn group(name: &str, tensor: Tensor, weight_decay: f64) -> ParamGroup {
        ParamGroup { name: name.into(), tensor: tensor.set_requires_grad(true), lr: 0.1, initial_lr: 0.1, weight_decay }
    }

    /// The operators of torch.optim.SGD, one after the other; `x + alpha * y` is one rounding there.
    fn reference(p: &Tensor, grad: &Tensor, velocity: &mut Option<Tensor>, decay: f64) -> Tensor {
        let rounded_once = |x: &Tensor, y: &Tensor, alpha: f32| {
            let exact = x.to_kind(Kind::Double) + y.to_kind(Kind::Double) * f64::from(alpha);
            exact.to_kind(Kind::Float)
        };
        let decayed = if decay == 0.0 { grad.copy() } else { rounded_once(grad, p, decay as f32) };
        let next = match velocity.take() {
            None => decayed,
            Some(v) => v * 0.9 + decayed,
        };
        let moved = rounded_once(p, &next, -0.1);
        *velocity = Some(next);
        moved
    }

    #[test]
    fn a_step_rounds_like_the_operators_whatever_the_layout() {
        let shape = [6, 50, 3, 3]; // more than one block, and not a whole number of them
        for (decay, format) in [(0.0001, false), (0.0, false), (0.0001, true)] {
            let start = values(&shape, 1);
            let start = if format { channels_last(&start) } else { start };
            let mut optimizer = Sgd::new(vec![group("weight", start.copy(), decay)], 0.9);
            let (mut expected, mut velocity) = (start.detach().copy(), None);
            for step in 0..4 {
                // The gradient of a sum of products is the other factor.
                let gradient = values(&shape, 10 + step);
                optimizer.zero_grad();
                (&optimizer.groups()[0].tensor * &gradient).sum(Kind::Float).backward();
                optimizer.step();
                expected = reference(&expected, &gradient, &mut velocity, decay);
                assert_eq!(optimizer.groups()[0].tensor.detach(), expected, "decay {decay}, step {step}");
                assert_eq!(optimizer.momentum_buffer(0), velocity.as_ref());
            }
        }
    }

    /// On CUDA filters lie channels-last, files hold everything in row-major order, and libtorch's fused step takes
    /// only momentum with the strides of its parameter.
    #[test]
    fn momentum_from_a_file_lies_in_memory_as_its_parameter() {
        let filter = |seed| channels_last(&values(&[6, 5, 3, 3], seed));
        let start = || vec![group("filter", filter(1), 0.1), group("bias", values(&[4], 2), 0.0)];
        let backward = |optimizer: &mut Sgd| {
            optimizer.zero_grad();
            let sum = |group: &ParamGroup| group.tensor.square().sum(Kind::Float);
            (sum(&optimizer.groups()[0]) + sum(&optimizer.groups()[1])).backward();
            optimizer.step();
        };
        let mut optimizer = Sgd::new(start(), 0.9);
        backward(&mut optimizer);
        let mut resumed = Sgd::new(start(), 0.9);
        resumed.load_state_dict(&optimizer.state_dict()).unwrap();
        for (index, group) in resumed.groups().iter().enumerate() {
            let momentum = resumed.momentum_buffer(index).unwrap();
            assert_eq!((momentum.stride(), momentum.requires_grad()), (group.tensor.stride(), false));
            assert_eq!(Some(momentum), optimizer.momentum_buffer(index));
            tch::no_grad(|| group.tensor.shallow_clone().copy_(&optimizer.groups()[index].tensor));
        }
        assert_eq!(resumed.groups()[0].tensor.stride(), [45, 1, 15, 5]);
        backward(&mut optimizer);
        backward(&mut resumed);
        for (resumed, group) in resumed.groups().iter().zip(optimizer.groups()) {
            assert_eq!(resumed.tensor, group.tensor);
        }
    }

    #[test]
    fn parameters_without_a_gradient_stay_and_get_no_momentum() {
        let mut optimizer = Sgd::new(vec![group("a", values(&[4], 1), 0.1), group("b", values(&[4], 2), 0.1)], 0.9);
        let before = optimizer.groups()[1].tensor.detach().copy();
        optimizer.groups()[0].tensor.sum(Kind::Float).backward();
        optimizer.step();
        assert_eq!(optimizer.groups()[1].tensor.detach(), before);
        assert!(optimizer.momentum_buffer(0).is_some() && optimizer.momentum_buffer(1).is_none());
    }

    #[test]
    fn without_momentum_there_is_no_buffer() {
        let mut optimizer = Sgd::new(vec![group("a", Tensor::ones([2], (Kind::Float, Device::Cpu)), 0.5)], 0.0);
        optimizer.groups()[0].tensor.sum(Kind::Float).backward();
        optimizer.step();
        assert_eq!(Vec::<f32>::try_from(optimizer.groups()[0].tensor.detach()).unwrap(), [0.85; 2]);
        assert!(optimizer.momentum_buffer(0).is_none());
    }
}
