//! `.safetensors` files: a JSON header and the tensors, used in place.

use anyhow::{bail, Context, Result};
use safetensors::{Dtype as Stored, SafeTensors};

use super::buffer::Buffer;
use super::tensor_data::{Dtype, TensorData};
use super::value::{Dict, Value};

/// Whether the bytes begin such a file: a header length that fits, then `{`.
pub(super) fn matches(file: &Buffer) -> bool {
    let bytes = file.raw();
    let Some(head) = bytes.first_chunk::<8>() else { return false };
    let len = u64::from_le_bytes(*head);
    bytes.get(8) == Some(&b'{') && len <= (bytes.len() - 8) as u64
}

/// Reads the file as an ordered dictionary of tensors, sorted by name.
pub(super) fn read(file: &Buffer) -> Result<Value> {
    let bytes = file.raw();
    let tensors = SafeTensors::deserialize(bytes).context("the safetensors header does not fit the file")?;
    let mut list = tensors.tensors();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    let mut dict = Dict::ordered();
    for (name, view) in list {
        let dtype = dtype(view.dtype()).with_context(|| format!("tensor {name:?}"))?;
        let shape = view.shape().iter().map(|d| i64::try_from(*d)).collect::<Result<Vec<_>, _>>()?;
        let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        let data = file.slice(start, view.data().len())?;
        let tensor = TensorData::contiguous(dtype, shape, data).with_context(|| format!("tensor {name:?}"))?;
        dict.insert(name, tensor);
    }
    Ok(Value::Dict(dict))
}

fn dtype(stored: Stored) -> Result<Dtype> {
    Ok(match stored {
        Stored::F16 => Dtype::Float16,
        Stored::BF16 => Dtype::BFloat16,
        Stored::F32 => Dtype::Float32,
        Stored::F64 => Dtype::Float64,
        Stored::U8 => Dtype::UInt8,
        Stored::I8 => Dtype::Int8,
        Stored::I16 => Dtype::Int16,
        Stored::I32 => Dtype::Int32,
        Stored::I64 => Dtype::Int64,
        Stored::BOOL => Dtype::Bool,
        other => bail!("tensors of type {other:?} are not read"),
    })
}
