//! Writing: torch.save's zip format, pickles with numpy arrays, safetensors.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write;
use std::path::Path;

use anyhow::{Error, Result};
use safetensors::tensor::View;
use safetensors::Dtype as Stored;

use super::archive::Archive;
use super::encode::{encode, encode_arrays, Encoded, Python};
use super::tensor_data::{Dtype, TensorData};
use super::value::Value;

/// Writes `value` as `torch.save(value, path)` does; `archive` is what the entries' names begin with.
///
/// # Errors
/// A value that files cannot hold, or what the file system says.
pub fn write_torch(out: impl Write, archive: &str, value: &Value) -> Result<()> {
    let Encoded { pickle, storages, .. } = encode(value)?;
    let mut zip = Archive::new(out);
    zip.entry(format!("{archive}/data.pkl"), &pickle)?;
    zip.entry(format!("{archive}/byteorder"), b"little")?;
    for (index, storage) in storages.iter().enumerate() {
        zip.entry(format!("{archive}/data/{index}"), &storage.bytes()?)?;
        storage.release();
    }
    zip.entry(format!("{archive}/version"), b"3\n")?;
    zip.finish()
}

/// What [`write_torch`] writes, in memory.
///
/// # Errors
/// A value that files cannot hold.
pub fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write_torch(&mut bytes, "archive", value)?;
    Ok(bytes)
}

/// Writes `value` as one pickle with numpy arrays; gives the Python that reads it, which is the one asked for unless
/// that is 2 and an array is over 2 GB.
///
/// # Errors
/// Element types that numpy does not have, or what the file system says.
pub fn write_pickle(mut out: impl Write, value: &Value, python: Python) -> Result<Python> {
    let python = python.for_arrays_of(value);
    let Encoded { pickle, arrays, .. } = encode_arrays(value, python)?;
    let mut written = 0;
    for (place, array) in &arrays {
        out.write_all(&pickle[written..*place])?;
        out.write_all(&array.bytes()?)?;
        array.storage().release();
        written = *place;
    }
    out.write_all(&pickle[written..])?;
    out.flush()?;
    Ok(python)
}

/// Writes named tensors as a safetensors file.
///
/// # Errors
/// What the file system says.
pub fn write_safetensors(path: &Path, tensors: &[(String, TensorData)]) -> Result<()> {
    let error = RefCell::new(None);
    let views = tensors.iter().map(|(name, tensor)| {
        let shape = tensor.shape().iter().map(|d| *d as usize).collect();
        (name.as_str(), InTurn { tensor, shape, error: &error })
    });
    safetensors::serialize_to_file(views, None, path)?;
    error.into_inner().map_or(Ok(()), Err)
}

/// A tensor whose bytes are put together when it is its turn to be written.
struct InTurn<'a> {
    tensor: &'a TensorData,
    shape: Vec<usize>,
    /// The first error of all tensors, for which [`View`] has no room.
    error: &'a RefCell<Option<Error>>,
}

impl View for InTurn<'_> {
    fn dtype(&self) -> Stored {
        stored(self.tensor.dtype())
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.tensor.bytes().unwrap_or_else(|error| {
            self.error.borrow_mut().get_or_insert(error);
            Cow::Borrowed(&[])
        })
    }

    fn data_len(&self) -> usize {
        self.tensor.len()
    }
}

fn stored(dtype: Dtype) -> Stored {
    match dtype {
        Dtype::Float16 => Stored::F16,
        Dtype::BFloat16 => Stored::BF16,
        Dtype::Float32 => Stored::F32,
        Dtype::Float64 => Stored::F64,
        Dtype::UInt8 => Stored::U8,
        Dtype::Int8 => Stored::I8,
        Dtype::Int16 => Stored::I16,
        Dtype::Int32 => Stored::I32,
        Dtype::Int64 => Stored::I64,
        Dtype::Bool => Stored::BOOL,
    }
}
