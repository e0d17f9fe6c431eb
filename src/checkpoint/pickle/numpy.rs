//! Arrays and scalars of numpy as they lie in pickles (Caffe2 and Detectron weights, scheduler states).

use anyhow::{bail, ensure, Context, Result};

use super::finish::Finisher;
use super::node::{Id, Node};
use super::tensor_data::{row_major, Dtype, TensorData};
use super::value::Value;

/// How the elements of an array follow each other.
enum Order {
    RowMajor,
    ColumnMajor,
    /// Row-major in its data, whose axes then change places: axis `i` of the array is axis `axes[i]` of the data.
    Permuted(Vec<i64>),
}

/// An array from its state: (version, shape, dtype, Fortran order, data).
pub(super) fn array(finisher: &mut Finisher, state: Id) -> Result<TensorData> {
    let state = finisher.items(state)?.to_vec();
    // Version 0 of the format lacks its own number.
    let state = match state.len() {
        4 => &state[..],
        5 => &state[1..],
        n => bail!("an array is described by {n} values instead of 5"),
    };
    let order = if finisher.int(state[2])? != 0 { Order::ColumnMajor } else { Order::RowMajor };
    dense(finisher, state[0], state[1], order, state[3])
}

/// An array as protocol 5 has it, with its data inside the pickle: (data, dtype, shape, order[, axes]).
pub(super) fn array_from_buffer(finisher: &mut Finisher, args: Id) -> Result<TensorData> {
    let args = finisher.items(args)?.to_vec();
    let ([data, dtype, shape, order] | [data, dtype, shape, order, _]) = args[..] else {
        bail!("an array is described by {} values instead of 4 or 5", args.len());
    };
    let order = match (&*finisher.string(order)?, args.get(4)) {
        ("C", _) => Order::RowMajor,
        ("F", _) => Order::ColumnMajor,
        ("K", Some(axes)) => Order::Permuted(finisher.ints(*axes)?),
        (other, _) => bail!("the order of an array is {other:?}"),
    };
    dense(finisher, shape, dtype, order, data)
}

fn dense(finisher: &mut Finisher, shape: Id, dtype_id: Id, order: Order, data: Id) -> Result<TensorData> {
    let shape = finisher.ints(shape)?;
    let (dtype, big_endian) = dtype(finisher, dtype_id)?;
    let data = match &finisher.nodes[data as usize] {
        Node::Bytes(bytes) | Node::ByteString(bytes) => bytes.clone(),
        other => bail!("the data of an array are {other:?}"),
    };
    let wanted = shape.iter().try_fold(dtype.size() as i64, |n, d| n.checked_mul(*d)).filter(|n| *n >= 0);
    ensure!(
        wanted.and_then(|n| usize::try_from(n).ok()) == Some(data.len()),
        "an array of shape {shape:?} of {dtype} has {} bytes of data",
        data.len()
    );
    let (shape, strides) = match order {
        Order::RowMajor => (shape.clone(), row_major(&shape)?),
        Order::ColumnMajor => {
            let reversed: Vec<i64> = shape.iter().rev().copied().collect();
            let strides = row_major(&reversed)?.into_iter().rev().collect();
            (shape, strides)
        }
        Order::Permuted(axes) => {
            let mut sorted = axes.clone();
            sorted.sort_unstable();
            ensure!(sorted.into_iter().eq(0..shape.len() as i64), "{axes:?} are not the axes of shape {shape:?}");
            let strides = row_major(&shape)?;
            axes.iter().map(|axis| (shape[*axis as usize], strides[*axis as usize])).unzip()
        }
    };
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
