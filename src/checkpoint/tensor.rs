//! Between the files' plain tensors and libtorch's.

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use super::pickle::{Buffer, Dtype, TensorData, Value};
use crate::ffi::copy_bytes;

/// A new tensor on the CPU with the values of `data`, whose memory is given back to the file.
///
/// # Errors
/// The file was changed while it was read, or libtorch has no memory for it.
pub fn to_tensor(data: &TensorData) -> Result<Tensor> {
    let tensor = Tensor::f_from_data_size(&data.bytes()?, data.shape(), kind(data.dtype()))?;
    data.storage().release();
    Ok(tensor)
}

/// Fills `target`, of the same shape, with the values of `data`, whose memory is given back to the file: loading a
/// model holds one tensor at a time beside it.
pub(super) fn copy_into(target: &mut Tensor, data: &TensorData) -> Result<()> {
    copy_bytes(target, &data.bytes()?, kind(data.dtype()))?;
    data.storage().release();
    Ok(())
}

/// The libtorch name of an element type.
pub(super) fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float16 => Kind::Half,
        Dtype::BFloat16 => Kind::BFloat16,
        Dtype::Float32 => Kind::Float,
        Dtype::Float64 => Kind::Double,
        Dtype::UInt8 => Kind::Uint8,
        Dtype::Int8 => Kind::Int8,
        Dtype::Int16 => Kind::Int16,
        Dtype::Int32 => Kind::Int,
        Dtype::Int64 => Kind::Int64,
        Dtype::Bool => Kind::Bool,
    }
}

/// An owned copy in row-major order.
///
/// # Errors
/// Element types that checkpoints do not have (complex, quantised).
impl TryFrom<&Tensor> for TensorData {
    type Error = anyhow::Error;

    fn try_from(tensor: &Tensor) -> Result<TensorData> {
        let found = Dtype::ALL.into_iter().find(|dtype| kind(*dtype) == tensor.kind());
        let dtype = found.with_context(|| format!("tensors of kind {:?} are not written", tensor.kind()))?;
        let plain = tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; plain.numel() * dtype.size()];
        plain.f_copy_data_u8(&mut bytes, plain.numel())?;
        TensorData::contiguous(dtype, plain.size(), Buffer::new(bytes))
    }
}

/// For tensors of an ordinary element type, which is what models, optimizers and predictions have.
impl From<&Tensor> for Value {
    fn from(tensor: &Tensor) -> Value {
        Value::from(TensorData::try_from(tensor).expect("a tensor of an ordinary element type"))
    }
}
