//! Parameters and buffers by name, in the order in which they are made: the order of the original's `state_dict()`.
//!
//! tch's own `VarStore` forgets the order and renames duplicates, so the table of names is kept here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::ffi;

/// How a parameter gets its first values (`torch.nn.init`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// One value everywhere.
    Const(f64),
    /// `normal_`
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// `uniform_`
    Uniform {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// `kaiming_uniform_` with `nonlinearity='leaky_relu'` and slope `a`; the fan is the shape's fan-in.
    KaimingUniform {
        /// Negative slope of the leaky ReLU.
        a: f64,
    },
    /// `kaiming_normal_` with `mode='fan_out', nonlinearity='relu'`.
    KaimingNormalFanOut,
    /// `kaiming_normal_` with `mode='fan_in', nonlinearity='relu'`.
    KaimingNormalFanIn,
}

/// What an entry of the state is to the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trained, unless frozen.
    Parameter,
    /// Part of the state, never trained.
    Buffer,
}

/// One named tensor of the state.
pub struct Entry {
    /// The original's name in `state_dict()`.
    pub name: String,
    /// The tensor itself; copies are shallow.
    pub tensor: Tensor,
    /// Whether it is a parameter or a buffer.
    pub role: Role,
    /// The name under which the same tensor was listed first, for a parameter that two modules share.
    pub alias_of: Option<String>,
}

struct Inner {
    entries: Vec<Entry>,
    /// Position in `entries` by name.
    index: HashMap<String, usize>,
    /// The parameters that are factors of convolutions and products.
    factors: Vec<Tensor>,
    device: Device,
    initialise: bool,
}

/// The state of one model: an ordered table of named tensors.
#[derive(Clone)]
pub struct Parameters {
    inner: Rc<RefCell<Inner>>,
}

impl Parameters {
    /// An empty table whose tensors will be made on `device` with their initial values.
    pub fn new(device: Device) -> Self {
        Self::with(device, true)
    }

    /// A table whose tensors are allocated but not filled: for looking at names and shapes, or before loading weights.
    pub fn uninitialised(device: Device) -> Self {
        Self::with(device, false)
    }

    fn with(device: Device, initialise: bool) -> Self {
        let inner = Inner { entries: Vec::new(), index: HashMap::new(), factors: Vec::new(), device, initialise };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// The path of the model itself.
    pub fn root(&self) -> ParamPath {
        ParamPath { parameters: self.clone(), prefix: String::new() }
    }

    /// The device of the tensors.
    pub fn device(&self) -> Device {
        self.inner.borrow().device
    }

    /// Every entry in creation order, shared tensors under each of their names. The tensors are shallow copies.
    pub fn state(&self) -> Vec<Entry> {
        self.inner
            .borrow()
            .entries
            .iter()
            .map(|e| Entry {
                name: e.name.clone(),
                tensor: e.tensor.shallow_clone(),
                role: e.role,
                alias_of: e.alias_of.clone(),
            })
            .collect()
    }

    /// Parameters that require gradients, in creation order, shared ones once: the optimizer's list.
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        self.inner
            .borrow()
            .entries
            .iter()
            .filter(|e| e.role == Role::Parameter && e.alias_of.is_none() && e.tensor.requires_grad())
            .map(|e| (e.name.clone(), e.tensor.shallow_clone()))
            .collect()
    }

    /// The trained parameters that convolutions and matrix products take as factors or summands, which mixed precision
    /// therefore casts, in creation order.
    pub fn factors(&self) -> Vec<Tensor> {
        let inner = self.inner.borrow();
        inner.factors.iter().filter(|factor| factor.requires_grad()).map(Tensor::shallow_clone).collect()
    }

    /// Lays the filters of convolutions out in memory as the maps that they are applied to: the channels of each
    /// position side by side (`torch.channels_last`), or in row-major order. Otherwise cuDNN reorders them each time
    /// that they are used. Values, names and shapes stay.
    ///
    /// Filters of one position or one channel are the same in both.
    pub fn lay_out(&self, channels_last: bool) {
        let _no_grad = tch::no_grad_guard();
        for filter in &self.inner.borrow().factors {
            if matches!(filter.size()[..], [_, channels, height, width] if channels > 1 && height * width > 1) {
                let laid_out = if channels_last { ffi::channels_last(filter) } else { ffi::nchw(filter) };
                filter.shallow_clone().set_data(&laid_out);
            }
        }
    }

    /// The entry of that name, as a shallow copy.
    pub fn get(&self, name: &str) -> Option<Tensor> {
        let inner = self.inner.borrow();
        inner.index.get(name).map(|&at| inner.entries[at].tensor.shallow_clone())
    }

    fn push(&self, entry: Entry) -> Tensor {
        let tensor = entry.tensor.shallow_clone();
        let inner = &mut *self.inner.borrow_mut();
        let before = inner.index.insert(entry.name.clone(), inner.entries.len());
        assert!(before.is_none(), "two entries of the state are named {}", entry.name);
        inner.entries.push(entry);
        tensor
    }
}

/// A place in the tree of names. Cloning is cheap; `sub` goes one level down.
#[derive(Clone)]
pub struct ParamPath {
    parameters: Parameters,
    prefix: String,
}

/// The dotted name of the place itself.
impl Display for ParamPath {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.prefix)
    }
}

impl ParamPath {
    /// The path of the child module `name` (which may contain dots).
    pub fn sub(&self, name: impl Display) -> ParamPath {
        ParamPath { parameters: self.parameters.clone(), prefix: self.name(name) }
    }

    /// The full name of `leaf` below this path.
    pub fn name(&self, leaf: impl Display) -> String {
        if self.prefix.is_empty() {
            leaf.to_string()
        } else {
            format!("{}.{leaf}", self.prefix)
        }
    }

    /// The device of the tensors.
    pub fn device(&self) -> Device {
        self.parameters.device()
    }

    /// The table that the path is part of.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// A float32 parameter that requires gradients.
    pub fn parameter(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let tensor = self.fill(shape, init).set_requires_grad(true);
        self.parameters.push(Entry { name: self.name(name), tensor, role: Role::Parameter, alias_of: None })
    }

    /// A [`parameter`](Self::parameter) that a convolution or matrix product takes: see [`Parameters::factors`].
    pub fn factor(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let factor = self.parameter(name, shape, init);
        self.parameters.inner.borrow_mut().factors.push(factor.shallow_clone());
        factor
    }

    /// A float32 buffer filled with `value`.
    pub fn buffer(&self, name: &str, shape: &[i64], value: f64) -> Tensor {
        let tensor = self.fill(shape, Init::Const(value));
        self.parameters.push(Entry { name: self.name(name), tensor, role: Role::Buffer, alias_of: None })
    }

    /// A buffer with given values (moved to the table's device).
    pub fn buffer_from(&self, name: &str, values: &Tensor) -> Tensor {
        let tensor = values.to_device(self.device());
        self.parameters.push(Entry { name: self.name(name), tensor, role: Role::Buffer, alias_of: None })
    }

    /// Stops gradients of every parameter below this path, as `requires_grad = False` does.
    pub fn freeze(&self) {
        let below = format!("{}.", self.prefix);
        for entry in &self.parameters.inner.borrow().entries {
            if entry.role == Role::Parameter && (self.prefix.is_empty() || entry.name.starts_with(&below)) {
                let _ = entry.tensor.set_requires_grad(false);
            }
        }
    }

    /// Lists the whole state below `source` again under this path: one module registered under two names.
    pub fn alias(&self, source: &ParamPath) {
        let below = format!("{}.", source.prefix);
        let copies: Vec<Entry> = self
            .parameters
            .inner
            .borrow()
            .entries
            .iter()
            .filter_map(|e| {
                let rest = e.name.strip_prefix(&below)?;
                Some(Entry {
                    name: self.name(rest),
                    tensor: e.tensor.shallow_clone(),
                    role: e.role,
                    alias_of: Some(e.alias_of.clone().unwrap_or_else(|| e.name.clone())),
                })
            })
            .collect();
        for copy in copies {
            let _ = self.parameters.push(copy);
        }
    }

    fn fill(&self, shape: &[i64], init: Init) -> Tensor {
        let (device, initialise) = {
            let inner = self.parameters.inner.borrow();
            (inner.device, inner.initialise)
        };
        // Values are drawn on the CPU, so that a seed gives the same weights on every device.
        let mut tensor = Tensor::empty(shape, (Kind::Float, Device::Cpu));
        if initialise {
            #[cfg(test)]
            if !matches!(init, Init::Const(_)) {
                crate::utils::testing::check_is_held();
            }
            let receptive: i64 = shape.iter().skip(2).product();
            let fan_in = (shape.get(1).copied().unwrap_or(1) * receptive) as f64;
            let fan_out = (shape.first().copied().unwrap_or(1) * receptive) as f64;
            let _ = match init {
                Init::Const(value) => tensor.fill_(value),
                Init::Normal { mean, std } => tensor.normal_(mean, std),
                Init::Uniform { low, high } => tensor.uniform_(low, high),
                Init::KaimingUniform { a } => {
                    let bound = (2.0 / (1.0 + a * a)).sqrt() * (3.0 / fan_in).sqrt();
                    tensor.uniform_(-bound, bound)
                }
                Init::KaimingNormalFanOut => tensor.normal_(0.0, (2.0 / fan_out).sqrt()),
                Init::KaimingNormalFanIn => tensor.normal_(0.0, (2.0 / fan_in).sqrt()),
            };
        }
        tensor.to_device(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::utils::testing::generator;

    fn names(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|e| e.name.as_str()).collect()
    }

    #[test]
    fn filters_are_laid_out_without_a_change_of_values() {
        let parameters = Parameters::new(Device::Cpu);
        let uniform = Init::Uniform { low: -1.0, high: 1.0 };
        let _generator = generator();
        let path = parameters.root();
        let filter = path.factor("filter", &[4, 3, 2, 2], uniform);
        let shapes = [&[4, 3, 1, 1][..], &[4, 1, 3, 3], &[4, 3]];
        let others: Vec<Tensor> = (0..).zip(shapes).map(|(i, shape)| path.sub(i).factor("w", shape, uniform)).collect();
        let _ = path.sub("norm").parameter("weight", &[4], uniform);
        let (values, strides) = (filter.copy(), |tensor: &Tensor| tensor.stride());
        let before: Vec<_> = others.iter().map(strides).collect();
        for (channels_last, expected) in [(true, [12, 1, 6, 3]), (true, [12, 1, 6, 3]), (false, [12, 4, 2, 1])] {
            parameters.lay_out(channels_last);
            assert_eq!((filter.stride(), &filter), (expected.to_vec(), &values));
            assert_eq!(parameters.get("filter").map(|filter| filter.stride()), Some(expected.to_vec()));
            assert_eq!(others.iter().map(strides).collect::<Vec<_>>(), before);
        }
        let _ = filter.shallow_clone().set_requires_grad(false);
        assert_eq!(parameters.factors().len(), 3);
    }

    #[test]
    fn the_table_keeps_the_order_of_creation_and_shared_tensors_under_both_names() {
        let parameters = Parameters::new(Device::Cpu);
        let (b, a) = (parameters.root().sub("b"), parameters.root().sub("a"));
        let _ = b.sub("conv").parameter("weight", &[2, 2], Init::Const(1.0));
        let _ = b.buffer("running_mean", &[2], 0.5);
        a.alias(&b);
        let state = parameters.state();
        assert_eq!(names(&state), ["b.conv.weight", "b.running_mean", "a.conv.weight", "a.running_mean"]);
        assert_eq!(state[2].alias_of.as_deref(), Some("b.conv.weight"));
        // One tensor, found under each name, and optimised once.
        let _ = tch::no_grad(|| parameters.get("a.conv.weight").unwrap().fill_(3.0));
        assert_eq!(parameters.get("b.conv.weight").unwrap().double_value(&[0, 0]), 3.0);
        let trainable: Vec<String> = parameters.trainable().into_iter().map(|(name, _)| name).collect();
        assert_eq!(trainable, ["b.conv.weight"]);
    }

    #[test]
    fn freezing_stops_at_the_end_of_a_name() {
        let parameters = Parameters::new(Device::Cpu);
        for layer in ["layer1", "layer10"] {
            let _ = parameters.root().sub(layer).parameter("weight", &[1], Init::Const(0.0));
        }
        parameters.root().sub("layer1").freeze();
        let trainable: Vec<String> = parameters.trainable().into_iter().map(|(name, _)| name).collect();
        assert_eq!(trainable, ["layer10.weight"]);
    }

    #[test]
    #[should_panic(expected = "two entries of the state are named a.weight")]
    fn a_name_cannot_be_given_twice() {
        let path = Parameters::uninitialised(Device::Cpu).root().sub("a");
        let _ = path.parameter("weight", &[1], Init::Const(0.0));
        let _ = path.parameter("weight", &[1], Init::Const(0.0));
    }

    #[test]
    fn initial_values_have_the_spread_that_was_asked_for() {
        let _generator = crate::utils::testing::generator();
        let path = Parameters::new(Device::Cpu).root();
        let shape = [64, 32, 3, 3];
        let deviation = |name: &str, init| path.parameter(name, &shape, init).std(true).double_value(&[]);
        let close = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 0.05, "{got}, expected {want}");
        // The deviation of a uniform distribution is its bound over the root of 3.
        close(deviation("a", Init::KaimingUniform { a: 1.0 }), (1.0f64 / 288.0).sqrt());
        close(deviation("b", Init::KaimingNormalFanOut), (2.0f64 / 576.0).sqrt());
        close(deviation("c", Init::KaimingNormalFanIn), (2.0f64 / 288.0).sqrt());
        close(deviation("d", Init::Normal { mean: 0.0, std: 0.01 }), 0.01);
        close(deviation("e", Init::Uniform { low: -1.0, high: 1.0 }), (1.0f64 / 3.0).sqrt());
    }
}
