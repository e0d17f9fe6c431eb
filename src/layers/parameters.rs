//! Parameters and buffers by name, in the order in which they are made: the order of the original's `state_dict()`.
//!
//! tch's own `VarStore` forgets the order and renames duplicates, so the table of names is kept here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

/// How a parameter gets its first values (`torch.nn.init`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Const(f64),
    Normal {
        mean: f64,
        std: f64,
    },
    Uniform {
        low: f64,
        high: f64,
    },
    /// `kaiming_uniform_` with `nonlinearity='leaky_relu'` and slope `a`; the fan is the shape's fan-in.
    KaimingUniform {
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
    Parameter,
    Buffer,
}

/// One named tensor of the state.
pub struct Entry {
    pub name: String,
    pub tensor: Tensor,
    pub role: Role,
    /// The name under which the same tensor was listed first, for a parameter that two modules share.
    pub alias_of: Option<String>,
}

struct Inner {
    entries: Vec<Entry>,
    /// Position in `entries` by name.
    index: HashMap<String, usize>,
    device: Device,
    initialise: bool,
}

/// The state of one model: an ordered table of named tensors.
#[derive(Clone)]
pub struct Parameters {
    inner: Rc<RefCell<Inner>>,
}

impl Parameters {
    pub fn new(device: Device) -> Self {
        Self::with(device, true)
    }

    /// A table whose tensors are allocated but not filled: for looking at names and shapes, or before loading weights.
    pub fn uninitialised(device: Device) -> Self {
        Self::with(device, false)
    }

    fn with(device: Device, initialise: bool) -> Self {
        Self { inner: Rc::new(RefCell::new(Inner { entries: Vec::new(), index: HashMap::new(), device, initialise })) }
    }

    pub fn root(&self) -> ParamPath {
        ParamPath { parameters: self.clone(), prefix: String::new() }
    }

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

    pub fn device(&self) -> Device {
        self.parameters.device()
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// A float32 parameter that requires gradients.
    pub fn parameter(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let tensor = self.fill(shape, init).set_requires_grad(true);
        self.parameters.push(Entry { name: self.name(name), tensor, role: Role::Parameter, alias_of: None })
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
        } else if shape.iter().product::<i64>() <= 1 {
            let _ = tensor.fill_(0.0);
        }
        tensor.to_device(device)
    }
}
