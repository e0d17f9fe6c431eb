//! From the nodes of a finished pickle to the tree of values.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};

use super::buffer::Buffer;
use super::globals::Global;
use super::node::{Id, Node, Pickled};
use super::numpy;
use super::tensor_data::{row_major, Dtype, TensorData};
use super::value::{Dict, Object, Value};

/// Nesting of lists and dictionaries; a value that contains itself ends here too.
const MAX_DEPTH: usize = 100;

/// Tensors may share or expand their storages so that together they are this much larger than the file …
const MAX_SHARING: usize = 16;
/// … and by this much in any file.
const FREE_CLAIMS: usize = 1 << 28;

/// A storage that a pickle refers to.
pub(super) struct StorageRef {
    pub(super) key: String,
    /// `None`: counted in bytes.
    pub(super) dtype: Option<Dtype>,
    /// Elements of `dtype`, or bytes.
    pub(super) len: usize,
    /// The older stream format can describe a storage as part of another: key, offset and length in elements.
    pub(super) part: Option<(usize, usize)>,
}

/// Finds the bytes of storages; says whether they are big-endian.
pub(super) type Resolver<'a> = dyn FnMut(&StorageRef) -> Result<(Buffer, bool)> + 'a;

/// The value of a pickle in a file of `file_len` bytes. Strings and storages are shared, so a value is never much
/// larger than its pickle; and the tensors together never claim to be much larger than the file.
pub(super) fn finish(pickled: &Pickled, file_len: usize, resolver: &mut Resolver) -> Result<Value> {
    // A pickle can refer to the same list many times, lists of lists exponentially often: the tree has a budget.
    let budget = 2 * pickled.nodes.len() + (1 << 16);
    let claims = file_len.saturating_mul(MAX_SHARING).saturating_add(FREE_CLAIMS);
    let mut finisher = Finisher { nodes: &pickled.nodes, resolver, strings: HashMap::new(), budget, claims };
    finisher.value(pickled.root, 0)
}

/// Every storage that the pickle refers to, as often as it does.
pub(super) fn storages(pickled: &Pickled) -> Result<Vec<StorageRef>> {
    let resolver = &mut no_storages;
    let mut finisher = Finisher { nodes: &pickled.nodes, resolver, strings: HashMap::new(), budget: 0, claims: 0 };
    let is_storage = |node: &Node| matches!(node, Node::Persistent(_));
    let ids = pickled.nodes.iter().enumerate().filter(|(_, node)| is_storage(node));
    ids.map(|(id, _)| finisher.storage(id as Id)).collect()
}

/// For pickles that must not refer to storages.
pub(super) fn no_storages(_: &StorageRef) -> Result<(Buffer, bool)> {
    bail!("the pickle refers to a storage, but the file has none")
}

pub(super) struct Finisher<'a> {
    pub(super) nodes: &'a [Node],
    resolver: &'a mut Resolver<'a>,
    strings: HashMap<Id, Arc<str>>,
    /// Values that may still be made.
    budget: usize,
    /// Bytes that tensors may still have together, if each were written out.
    claims: usize,
}

impl<'a> Finisher<'a> {
    fn value(&mut self, id: Id, depth: usize) -> Result<Value> {
        ensure!(depth < MAX_DEPTH, "values are nested more than {MAX_DEPTH} deep, or contain themselves");
        ensure!(self.budget > 0, "the pickle repeats its parts too often");
        self.budget -= 1;
        let nodes = self.nodes;
        Ok(match &nodes[id as usize] {
            Node::None => Value::None,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::Float(value) => Value::Float(*value),
            Node::Text(_) | Node::ByteString(_) => Value::Str(self.string(id)?),
            Node::Bytes(bytes) => Value::Bytes(bytes.clone()),
            Node::List(items) => Value::List(self.values(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            Node::Dict { entries, ordered } => Value::Dict(self.dict(entries, *ordered, depth)?),
            Node::Tensor { storage, offset, size, stride, dtype } => {
                let tensor = self.tensor(*storage, *offset, *size, *stride, *dtype)?;
                Value::from(self.claim(tensor)?)
            }
            Node::Array(Some(state)) => {
                let array = numpy::array(self, *state)?;
                Value::from(self.claim(array)?)
            }
            Node::ArrayFromBuffer(args) => {
                let array = numpy::array_from_buffer(self, *args)?;
                Value::from(self.claim(array)?)
            }
            Node::Array(None) => bail!("an array has no data"),
            Node::Scalar(dtype, bytes) => numpy::scalar(self, *dtype, *bytes)?,
            Node::Object { module, name, args, state } => {
                let args = match args {
                    Some(args) => self.values(self.items(*args)?, depth)?,
                    None => Vec::new(),
                };
                let state = state.map(|id| self.value(id, depth + 1)).transpose()?.unwrap_or(Value::None);
                Value::Object(Box::new(Object { module: module.clone(), name: name.clone(), args, state }))
            }
            Node::Global(Global::TorchDtype(dtype)) => Value::from(format!("torch.{dtype}")),
            Node::Global(global) => Value::from(format!("{global:?}")),
            Node::NumpyDtype(code, _) => Value::Str(self.string(*code)?),
            Node::Persistent(_) => bail!("a storage stands outside a tensor"),
        })
    }

    fn values(&mut self, ids: &[Id], depth: usize) -> Result<Vec<Value>> {
        ids.iter().map(|id| self.value(*id, depth + 1)).collect()
    }

    /// Later entries replace earlier ones of the same key, in place.
    fn dict(&mut self, entries: &[(Id, Id)], ordered: bool, depth: usize) -> Result<Dict> {
        #[derive(PartialEq, Eq, Hash)]
        enum Key {
            Str(Arc<str>),
            Int(i64),
        }
        let mut dict = Dict { entries: Vec::with_capacity(entries.len()), ordered };
        let mut seen = HashMap::new();
        for (key, value) in entries {
            let key = self.value(*key, depth + 1)?;
            let hashed = match &key {
                Value::Str(text) => Some(Key::Str(text.clone())),
                Value::Int(number) => Some(Key::Int(*number)),
                _ => None,
            };
            let value = self.value(*value, depth + 1)?;
            let at = hashed.map(|hashed| *seen.entry(hashed).or_insert(dict.entries.len()));
            match at {
                Some(at) if at < dict.entries.len() => dict.entries[at].1 = value,
                _ => dict.entries.push((key, value)),
            }
        }
        Ok(dict)
    }

    pub(super) fn items(&self, id: Id) -> Result<&'a [Id]> {
        let nodes: &'a [Node] = self.nodes;
        match &nodes[id as usize] {
            Node::Tuple(items) | Node::List(items) => Ok(items),
            other => bail!("a tuple was expected, not {other:?}"),
        }
    }

    pub(super) fn int(&self, id: Id) -> Result<i64> {
        match &self.nodes[id as usize] {
            Node::Int(value) => Ok(*value),
            Node::Bool(value) => Ok((*value).into()),
            other => bail!("an integer was expected, not {other:?}"),
        }
    }

    pub(super) fn ints(&self, id: Id) -> Result<Vec<i64>> {
        self.items(id)?.iter().map(|id| self.int(*id)).collect()
    }

    pub(super) fn string(&mut self, id: Id) -> Result<Arc<str>> {
        if let Some(known) = self.strings.get(&id) {
            return Ok(known.clone());
        }
        let text: Arc<str> = match &self.nodes[id as usize] {
            Node::Text(text) => std::str::from_utf8(text.raw()).context("text is not UTF-8")?.into(),
            // As `pickle.load(f, encoding="latin1")` reads the strings of Python 2.
            Node::ByteString(text) => text.raw().iter().map(|b| char::from(*b)).collect::<String>().into(),
            other => bail!("a string was expected, not {other:?}"),
        };
        self.strings.insert(id, text.clone());
        Ok(text)
    }

    fn tensor(
        &mut self,
        storage: Id,
        offset: Id,
        size: Id,
        stride: Option<Id>,
        dtype: Option<Id>,
    ) -> Result<TensorData> {
        let reference = self.storage(storage)?;
        let explicit = dtype.map(|id| match &self.nodes[id as usize] {
            Node::Global(Global::TorchDtype(dtype)) => Ok(*dtype),
            other => bail!("a dtype was expected, not {other:?}"),
        });
        let dtype = explicit.transpose()?.or(reference.dtype).context("a tensor has no dtype")?;
        let shape = self.ints(size)?;
        let strides = match stride {
            Some(stride) => self.ints(stride)?,
            None => row_major(&shape)?,
        };
        let offset = self.int(offset)?;
        let key = reference.key.clone();
        let (buffer, big_endian) = (self.resolver)(&reference).with_context(|| format!("storage {key:?}"))?;
        TensorData::view(dtype, shape, strides, offset, buffer, big_endian).with_context(|| format!("storage {key:?}"))
    }

    /// Counts a tensor's bytes, as if it were written out.
    fn claim(&mut self, tensor: TensorData) -> Result<TensorData> {
        let left = self.claims.checked_sub(tensor.numel() * tensor.dtype().size());
        self.claims = left.context("the tensors together are far larger than the file")?;
        Ok(tensor)
    }

    /// `("storage", class, key, device, length[, part])`.
    fn storage(&mut self, id: Id) -> Result<StorageRef> {
        let nodes = self.nodes;
        let Node::Persistent(tuple) = &nodes[id as usize] else {
            bail!("a tensor is made of {:?} instead of a storage", nodes[id as usize]);
        };
        let items = self.items(*tuple)?.to_vec();
        ensure!(items.len() >= 5, "a storage is described by {} values instead of 5", items.len());
        let tag = self.string(items[0])?;
        ensure!(&*tag == "storage", "the file refers to a {tag:?} outside the pickle: whole modules are not read");
        let dtype = match &nodes[items[1] as usize] {
            Node::Global(Global::Storage(dtype)) => *dtype,
            other => bail!("a storage class was expected, not {other:?}"),
        };
        let key = match &nodes[items[2] as usize] {
            Node::Int(key) => key.to_string(),
            _ => self.string(items[2])?.to_string(),
        };
        let length = |value: i64| usize::try_from(value).context("a storage has a negative length");
        let len = length(self.int(items[4])?)?;
        let part = match items.get(5).map(|id| (&nodes[*id as usize], *id)) {
            None | Some((Node::None, _)) => None,
            Some((_, id)) => match self.items(id)?.to_vec()[..] {
                [_, offset, len] => Some((length(self.int(offset)?)?, length(self.int(len)?)?)),
                _ => bail!("a part of a storage is not described by 3 values"),
            },
        };
        Ok(StorageRef { key, dtype, len, part })
    }
}
