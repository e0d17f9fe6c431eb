//! Arrays and scalars of numpy as they lie in pickles (Caffe2 and Detectron weights, scheduler states).

use anyhow::{bail, ensure, Context, Result};

use super::finish::Finisher;
use super::node::{Id, Node};
use super::tensor_data::{row_major, Dtype, TensorData};
use super::value::Value;

/// An array from its state: (version, shape, dtype, Fortran order, data).
pub(super) fn array(finisher: &mut Finisher, state: Id) -> Result<TensorData> {
    let state = finisher.items(state)?.to_vec();
    // Version 0 of the format lacks its own number.
    let state = match state.len() {
        4 => &state[..],
        5 => &state[1..],
        n => bail!("an array is described by {n} values instead of 5"),
    };
    let shape = finisher.ints(state[0])?;
    let (dtype, big_endian) = dtype(finisher, state[1])?;
    let fortran = finisher.int(state[2])? != 0;
    let data = match &finisher.nodes[state[3] as usize] {
        Node::Bytes(bytes) | Node::ByteString(bytes) => bytes.clone(),
        other => bail!("the data of an array are {other:?}"),
    };
    let strides = if fortran {
        let mut reversed = shape.clone();
        reversed.reverse();
        let mut strides = row_major(&reversed)?;
        strides.reverse();
        strides
    } else {
        row_major(&shape)?
    };
    let wanted = shape.iter().try_fold(dtype.size() as i64, |n, d| n.checked_mul(*d)).filter(|n| *n >= 0);
    ensure!(
        wanted.and_then(|n| usize::try_from(n).ok()) == Some(data.len()),
        "an array of shape {shape:?} of {dtype} has {} bytes of data",
        data.len()
    );
    TensorData::view(dtype, shape, strides, 0, data, big_endian)
}

/// A scalar becomes a plain number.
pub(super) fn scalar(finisher: &mut Finisher, dtype_id: Id, data: Id) -> Result<Value> {
    let (dtype, big_endian) = dtype(finisher, dtype_id)?;
    let data = match &finisher.nodes[data as usize] {
        Node::Bytes(bytes) | Node::ByteString(bytes) => bytes.clone(),
        other => bail!("the data of a numpy scalar are {other:?}"),
    };
    let tensor = TensorData::view(dtype, vec![], vec![], 0, data, big_endian)?;
    let bytes = tensor.bytes()?;
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(&bytes);
    let bits = i64::from_le_bytes(wide);
    Ok(match dtype {
        Dtype::Bool => Value::Bool(bits != 0),
        Dtype::UInt8 => Value::Int(bits),
        Dtype::Int8 => Value::Int((bits as i8).into()),
        Dtype::Int16 => Value::Int((bits as i16).into()),
        Dtype::Int32 => Value::Int((bits as i32).into()),
        Dtype::Int64 => Value::Int(bits),
        Dtype::Float32 => Value::Float(f32::from_bits(bits as u32).into()),
        Dtype::Float64 => Value::Float(f64::from_bits(bits as u64)),
        Dtype::Float16 | Dtype::BFloat16 => bail!("a numpy scalar of {dtype}"),
    })
}

/// The element type and whether it is big-endian.
fn dtype(finisher: &mut Finisher, id: Id) -> Result<(Dtype, bool)> {
    let (code, state) = match &finisher.nodes[id as usize] {
        Node::NumpyDtype(code, state) => (*code, *state),
        other => bail!("a numpy dtype was expected, not {other:?}"),
    };
    let code = finisher.string(code)?;
    let (mut order, kind) = match code.split_at_checked(1) {
        Some((order @ ("<" | ">" | "=" | "|"), kind)) => (order.to_string(), kind),
        _ => ("=".to_string(), &*code),
    };
    if let Some(state) = state {
        let second = *finisher.items(state)?.get(1).context("a numpy dtype has no byte order")?;
        order = finisher.string(second)?.to_string();
    }
    let dtype = match kind {
        "f2" => Dtype::Float16,
        "f4" => Dtype::Float32,
        "f8" => Dtype::Float64,
        "u1" => Dtype::UInt8,
        "i1" => Dtype::Int8,
        "i2" => Dtype::Int16,
        "i4" => Dtype::Int32,
        "i8" => Dtype::Int64,
        "b1" => Dtype::Bool,
        _ => bail!("arrays of numpy type {code:?} are not read"),
    };
    Ok((dtype, order == ">"))
}
