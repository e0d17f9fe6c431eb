//! Values as a pickle of protocol 2, in the form in which torch.save writes them and `weights_only=True` reads them; or
//! with numpy arrays, as Caffe2 and Detectron have them.

use std::collections::HashMap;

use anyhow::{bail, Context, Result};

use super::buffer::Buffer;
use super::opcodes as op;
use super::tensor_data::{Dtype, TensorData};
use super::value::{Dict, Object, Value};

/// A pickle and what it is written with.
pub(super) struct Encoded {
    pub(super) pickle: Vec<u8>,
    /// The storages that the pickle refers to, by their place in the list.
    pub(super) storages: Vec<Buffer>,
    /// The data of numpy arrays, each with its place in the pickle: not copied, so that writing takes little memory.
    pub(super) arrays: Vec<(usize, TensorData)>,
}

/// Writes a value. Tensors that share a storage share it in the file too.
///
/// # Errors
/// Strings over 4 GB, values nested absurdly deep.
pub(super) fn encode(value: &Value) -> Result<Encoded> {
    encode_as(value, Tensors::Torch)
}

/// Which Python a pickle of numpy arrays is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Python {
    /// Protocol 2 with the bytes of arrays as `str`: what Caffe2 and Detectron have; Python 3 reads it with
    /// `encoding="latin1"`.
    Two,
    /// Protocol 3 (4 for arrays over 4 GB) with the bytes of arrays as `bytes`: a plain `pickle.load` reads it.
    Three,
}

impl Python {
    /// Which Python can read `value`: the strings of Python 2 end at 2 GB.
    pub(super) fn for_arrays_of(self, value: &Value) -> Python {
        match self {
            Python::Two if largest(value) > i32::MAX as usize => Python::Three,
            wanted => wanted,
        }
    }
}

/// Bytes of the largest tensor in a value.
fn largest(value: &Value) -> usize {
    match value {
        Value::Tensor(tensor) => tensor.len(),
        Value::List(items) | Value::Tuple(items) => items.iter().map(largest).max().unwrap_or(0),
        Value::Dict(dict) => dict.entries.iter().map(|(_, value)| largest(value)).max().unwrap_or(0),
        Value::Object(object) => object.args.iter().chain([&object.state]).map(largest).max().unwrap_or(0),
        _ => 0,
    }
}

/// Writes a value whose tensors become numpy arrays inside the pickle.
///
/// # Errors
/// As [`encode`]; also bfloat16, which numpy does not have, and for Python 2 arrays over 2 GB.
pub(super) fn encode_arrays(value: &Value, python: Python) -> Result<Encoded> {
    encode_as(value, Tensors::Numpy(python))
}

fn encode_as(value: &Value, tensors: Tensors) -> Result<Encoded> {
    let protocol = match tensors {
        // Sizes over 4 GB came with protocol 4.
        Tensors::Numpy(Python::Three) if u32::try_from(largest(value)).is_err() => 4,
        Tensors::Numpy(Python::Three) => 3,
        Tensors::Numpy(Python::Two) | Tensors::Torch => 2,
    };
    let out = vec![op::PROTO, protocol];
    let mut encoder =
        Encoder { out, tensors, storages: Vec::new(), arrays: Vec::new(), known: HashMap::new(), memo: HashMap::new() };
    encoder.value(value)?;
    encoder.out.push(op::STOP);
    Ok(Encoded { pickle: encoder.out, storages: encoder.storages, arrays: encoder.arrays })
}

/// What tensors become.
#[derive(Clone, Copy)]
enum Tensors {
    Torch,
    Numpy(Python),
}

struct Encoder {
    out: Vec<u8>,
    tensors: Tensors,
    storages: Vec<Buffer>,
    arrays: Vec<(usize, TensorData)>,
    known: HashMap<(usize, usize, usize), usize>,
    /// Strings and globals already written, which are long and many: they are referred to by number.
    memo: HashMap<String, u32>,
}

impl Encoder {
    fn value(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::None => self.out.push(op::NONE),
            Value::Bool(value) => self.out.push(if *value { op::NEWTRUE } else { op::NEWFALSE }),
            Value::Int(value) => self.int(*value),
            Value::Float(value) => {
                self.out.push(op::BINFLOAT);
                self.out.extend(value.to_be_bytes());
            }
            Value::Str(text) => self.text(text)?,
            Value::Bytes(bytes) => self.bytes(bytes)?,
            Value::List(items) => {
                self.out.push(op::EMPTY_LIST);
                self.many(op::APPENDS, items.iter())?;
            }
            Value::Tuple(items) => self.tuple(items)?,
            Value::Dict(dict) => self.dict(dict)?,
            Value::Tensor(tensor) => match self.tensors {
                Tensors::Torch => self.tensor(tensor)?,
                Tensors::Numpy(python) => self.array(tensor, python)?,
            },
            Value::Object(object) => self.object(object)?,
        }
        Ok(())
    }

    fn many<'v>(&mut self, opcode: u8, items: impl ExactSizeIterator<Item = &'v Value>) -> Result<()> {
        if items.len() > 0 {
            self.out.push(op::MARK);
            for item in items {
                self.value(item)?;
            }
            self.out.push(opcode);
        }
        Ok(())
    }

    fn int(&mut self, value: i64) {
        if let Ok(byte) = u8::try_from(value) {
            self.out.extend([op::BININT1, byte]);
        } else if let Ok(short) = u16::try_from(value) {
            self.out.push(op::BININT2);
            self.out.extend(short.to_le_bytes());
        } else if let Ok(int) = i32::try_from(value) {
            self.out.push(op::BININT);
            self.out.extend(int.to_le_bytes());
        } else {
            self.out.extend([op::LONG1, 8]);
            self.out.extend(value.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        if self.recall(text) {
            return Ok(());
        }
        self.out.push(op::BINUNICODE);
        self.out.extend(u32::try_from(text.len()).context("a string over 4 GB")?.to_le_bytes());
        self.out.extend(text.as_bytes());
        self.remember(text.to_string())
    }

    /// As Python 3 does at protocol 2: Latin-1 text given to `_codecs.encode`.
    fn bytes(&mut self, bytes: &Buffer) -> Result<()> {
        let text: String = bytes.bytes()?.iter().map(|b| char::from(*b)).collect();
        self.global("_codecs", "encode")?;
        self.text(&text)?;
        self.text("latin1")?;
        self.out.extend([op::TUPLE2, op::REDUCE]);
        Ok(())
    }

    fn tuple(&mut self, items: &[Value]) -> Result<()> {
        match items.len() {
            0 => self.out.push(op::EMPTY_TUPLE),
            n @ 1..=3 => {
                for item in items {
                    self.value(item)?;
                }
                self.out.push(op::TUPLE1 + (n as u8 - 1));
            }
            _ => self.many(op::TUPLE, items.iter())?,
        }
        Ok(())
    }

    fn dict(&mut self, dict: &Dict) -> Result<()> {
        if dict.ordered {
            self.global("collections", "OrderedDict")?;
            self.out.extend([op::EMPTY_TUPLE, op::REDUCE]);
        } else {
            self.out.push(op::EMPTY_DICT);
        }
        if !dict.is_empty() {
            self.out.push(op::MARK);
            for (key, value) in &dict.entries {
                self.value(key)?;
                self.value(value).with_context(|| format!("entry {}", key.as_str().unwrap_or("of a number")))?;
            }
            self.out.push(op::SETITEMS);
        }
        Ok(())
    }

    /// `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`.
    fn tensor(&mut self, tensor: &TensorData) -> Result<()> {
        if tensor.big_endian() {
            let bytes = Buffer::new(tensor.bytes()?.into_owned());
            return self.tensor(&TensorData::contiguous(tensor.dtype(), tensor.shape().to_vec(), bytes)?);
        }
        let next = self.storages.len();
        let index = *self.known.entry(tensor.storage().identity()).or_insert(next);
        if index == next {
            self.storages.push(tensor.storage().clone());
        }
        self.global("torch._utils", "_rebuild_tensor_v2")?;
        self.out.extend([op::MARK, op::MARK]);
        self.text("storage")?;
        self.global("torch", tensor.dtype().storage_name())?;
        self.text(&index.to_string())?;
        self.text("cpu")?;
        self.int((tensor.storage().len() / tensor.dtype().size()) as i64);
        self.out.extend([op::TUPLE, op::BINPERSID]);
        self.int(tensor.offset() as i64);
        self.tuple(&tensor.shape().iter().map(|d| Value::Int(*d)).collect::<Vec<_>>())?;
        self.tuple(&tensor.strides().iter().map(|s| Value::Int(*s as i64)).collect::<Vec<_>>())?;
        self.out.push(op::NEWFALSE);
        self.global("collections", "OrderedDict")?;
        self.out.extend([op::EMPTY_TUPLE, op::REDUCE, op::TUPLE, op::REDUCE]);
        Ok(())
    }

    /// `_reconstruct(ndarray, (0,), "b")`, then its state: (version, shape, dtype, Fortran order, data).
    fn array(&mut self, tensor: &TensorData, python: Python) -> Result<()> {
        let code = match tensor.dtype() {
            Dtype::Float16 => "f2",
            Dtype::Float32 => "f4",
            Dtype::Float64 => "f8",
            Dtype::UInt8 => "u1",
            Dtype::Int8 => "i1",
            Dtype::Int16 => "i2",
            Dtype::Int32 => "i4",
            Dtype::Int64 => "i8",
            Dtype::Bool => "b1",
            Dtype::BFloat16 => bail!("numpy has no bfloat16"),
        };
        let order = if tensor.dtype().size() == 1 { "|" } else { "<" };
        self.global("numpy.core.multiarray", "_reconstruct")?;
        self.global("numpy", "ndarray")?;
        self.tuple(&[Value::Int(0)])?;
        self.byte_string(b"b");
        self.out.extend([op::TUPLE3, op::REDUCE, op::MARK]);
        self.int(1);
        self.tuple(&tensor.shape().iter().map(|d| Value::Int(*d)).collect::<Vec<_>>())?;
        self.global("numpy", "dtype")?;
        self.byte_string(code.as_bytes());
        self.int(0);
        self.int(1);
        self.out.extend([op::TUPLE3, op::REDUCE, op::MARK]);
        self.int(3);
        self.byte_string(order.as_bytes());
        self.out.extend([op::NONE; 3]);
        self.int(-1);
        self.int(-1);
        self.int(0);
        self.out.extend([op::TUPLE, op::BUILD, op::NEWFALSE]);
        self.array_data(tensor.len(), python)?;
        self.arrays.push((self.out.len(), tensor.clone()));
        self.out.extend([op::TUPLE, op::BUILD]);
        Ok(())
    }

    /// The opcode and the size of an array's data, which follow.
    fn array_data(&mut self, len: usize, python: Python) -> Result<()> {
        match (python, u32::try_from(len)) {
            (Python::Two, _) => {
                let len = i32::try_from(len).context("an array over 2 GB, which Python 2 cannot read")?;
                self.out.push(op::BINSTRING);
                self.out.extend(len.to_le_bytes());
            }
            (Python::Three, Ok(len)) => {
                self.out.push(op::BINBYTES);
                self.out.extend(len.to_le_bytes());
            }
            (Python::Three, Err(_)) => {
                self.out.push(op::BINBYTES8);
                self.out.extend((len as u64).to_le_bytes());
            }
        }
        Ok(())
    }

    /// A short `str` of Python 2.
    fn byte_string(&mut self, bytes: &[u8]) {
        self.out.extend([op::SHORT_BINSTRING, bytes.len() as u8]);
        self.out.extend(bytes);
    }

    /// `cls.__new__(cls, *args)`, then its state.
    fn object(&mut self, object: &Object) -> Result<()> {
        self.global(&object.module, &object.name)?;
        self.tuple(&object.args)?;
        self.out.push(op::NEWOBJ);
        if !matches!(object.state, Value::None) {
            self.value(&object.state)?;
            self.out.push(op::BUILD);
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let line = format!("{module}\n{name}\n");
        let key = format!("\0{line}");
        if self.recall(&key) {
            return Ok(());
        }
        self.out.push(op::GLOBAL);
        self.out.extend(line.as_bytes());
        self.remember(key)
    }

    fn recall(&mut self, key: &str) -> bool {
        let Some(index) = self.memo.get(key) else { return false };
        match u8::try_from(*index) {
            Ok(index) => self.out.extend([op::BINGET, index]),
            Err(_) => {
                self.out.push(op::LONG_BINGET);
                self.out.extend(index.to_le_bytes());
            }
        }
        true
    }

    fn remember(&mut self, key: String) -> Result<()> {
        let index = u32::try_from(self.memo.len()).context("too many strings")?;
        match u8::try_from(index) {
            Ok(index) => self.out.extend([op::BINPUT, index]),
            Err(_) => {
                self.out.push(op::LONG_BINPUT);
                self.out.extend(index.to_le_bytes());
            }
        }
        self.memo.insert(key, index);
        Ok(())
    }
}
