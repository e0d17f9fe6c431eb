//! What a checkpoint file holds, as plain data: the tree of Python values, with tensors as typed views of bytes.

use std::sync::Arc;

use super::buffer::Buffer;
use super::tensor_data::TensorData;

/// One Python value.
#[derive(Clone, Debug)]
pub enum Value {
    /// `None`.
    None,
    /// `bool`.
    Bool(bool),
    /// `int` of at most 64 bits.
    Int(i64),
    /// `float`.
    Float(f64),
    /// `str`.
    Str(Arc<str>),
    /// `bytes` or `bytearray`.
    Bytes(Buffer),
    /// `list`.
    List(Vec<Value>),
    /// `tuple`.
    Tuple(Vec<Value>),
    /// `dict` or `collections.OrderedDict`.
    Dict(Dict),
    /// A tensor of torch or an array of numpy.
    Tensor(Box<TensorData>),
    /// An instance of any other class.
    Object(Box<Object>),
}

impl Value {
    /// An instance of the class `module.name` whose `__dict__` is `state`.
    pub fn object(module: &str, name: &str, state: Dict) -> Value {
        let (module, name) = (module.to_string(), name.to_string());
        Value::Object(Box::new(Object { module, name, args: Vec::new(), state: Value::Dict(state) }))
    }

    /// The value of a `bool`.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of an `int`.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A float, or an integer as one.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// The text of a `str`.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(value) => Some(value),
            _ => None,
        }
    }

    /// The entries of a dictionary.
    pub fn as_dict(&self) -> Option<&Dict> {
        match self {
            Value::Dict(value) => Some(value),
            _ => None,
        }
    }

    /// The items of a list or a tuple.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The data of a tensor.
    pub fn as_tensor(&self) -> Option<&TensorData> {
        match self {
            Value::Tensor(value) => Some(value),
            _ => None,
        }
    }

    /// What Python's `type(value).__name__` would say, for messages.
    pub fn type_name(&self) -> &str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(dict) if dict.ordered => "OrderedDict",
            Value::Dict(_) => "dict",
            Value::Tensor(_) => "Tensor",
            Value::Object(object) => &object.name,
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Value::$variant(value.into())
            }
        }
    )*};
}

value_from! { bool => Bool, i64 => Int, f64 => Float, &str => Str, String => Str, Vec<Value> => List, Dict => Dict }

impl From<TensorData> for Value {
    fn from(value: TensorData) -> Self {
        Value::Tensor(Box::new(value))
    }
}

/// A dictionary in insertion order.
#[derive(Clone, Debug, Default)]
pub struct Dict {
    /// Keys and values, in the order of their insertion.
    pub entries: Vec<(Value, Value)>,
    /// Whether it is a `collections.OrderedDict`.
    pub ordered: bool,
}

impl Dict {
    /// An empty `dict`.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty `OrderedDict`.
    pub fn ordered() -> Self {
        Self { entries: Vec::new(), ordered: true }
    }

    /// The value under a string key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(_, v)| v)
    }

    /// Takes the value under a string key out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.entries.iter().position(|(k, _)| k.as_str() == Some(key))?;
        Some(self.entries.remove(at).1)
    }

    /// Appends an entry; the key must be new.
    pub fn insert(&mut self, key: impl Into<Value>, value: impl Into<Value>) {
        self.entries.push((key.into(), value.into()));
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// An instance of a class that is only data here: its path, the arguments of its construction and its state.
#[derive(Clone, Debug)]
pub struct Object {
    /// The module of its class, such as `torch.nn.modules.linear`.
    pub module: String,
    /// The name of its class.
    pub name: String,
    /// What its constructor was called with.
    pub args: Vec<Value>,
    /// What `__setstate__` (or `__dict__`) gets, `None` if nothing.
    pub state: Value,
}
