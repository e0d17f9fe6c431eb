//! Tensors from bytes that lie in memory already.

use anyhow::{ensure, Result};
use tch::{Device, Kind, Tensor};

/// Fills `target` with `bytes`, its elements in row-major order, little-endian, of type `kind`. They are read where
/// they lie and converted on the way; only bytes at an address that does not suit their type are copied first.
///
/// # Errors
/// Another number of elements than `target` has, or what libtorch says.
pub fn copy_bytes(target: &mut Tensor, bytes: &[u8], kind: Kind) -> Result<()> {
    let shape = target.size();
    let size = kind.elt_size_in_bytes();
    let numel = target.numel();
    ensure!(bytes.len() == numel * size, "{} bytes are no {numel} elements of {size} bytes", bytes.len());
    if numel == 0 {
        return Ok(());
    }
    if !bytes.as_ptr().addr().is_multiple_of(size) {
        target.f_copy_(&Tensor::f_from_data_size(bytes, &shape, kind)?)?;
        return Ok(());
    }
    let mut strides = vec![1; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim] * shape[dim];
    }
    // SAFETY: `bytes` has as many elements as shape and strides describe, suitably aligned (both checked above), and
    // outlives the view, which is only read.
    let view = unsafe { Tensor::f_from_blob(bytes.as_ptr(), &shape, &strides, kind, Device::Cpu)? };
    target.f_copy_(&view)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_copied_from_any_address() {
        let values = [0.5f32, -2.0, 1.5, 4.0, -0.25, 8.0];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        for shift in 0..4 {
            let shifted = [&vec![0; shift][..], &bytes].concat();
            let mut target = Tensor::zeros([2, 3], (Kind::Double, Device::Cpu));
            copy_bytes(&mut target, &shifted[shift..], Kind::Float).unwrap();
            assert_eq!(Vec::<f64>::try_from(target.reshape([6])).unwrap(), values.map(f64::from));
        }
        let mut scalar = Tensor::from(0f32);
        copy_bytes(&mut scalar, &bytes[..4], Kind::Float).unwrap();
        assert_eq!(scalar.double_value(&[]), 0.5);
        copy_bytes(&mut Tensor::zeros([0, 3], (Kind::Float, Device::Cpu)), &[], Kind::Half).unwrap();
        let error = copy_bytes(&mut scalar, &bytes, Kind::Float).unwrap_err().to_string();
        assert!(error.contains("24 bytes are no 1 elements of 4 bytes"), "{error}");
    }
}
