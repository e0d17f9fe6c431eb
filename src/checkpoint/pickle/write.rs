//! Writing: torch.save's zip format, pickles with numpy arrays, safetensors.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Error, Result};
use safetensors::tensor::View;
use safetensors::Dtype as Stored;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::encode::{encode, encode_arrays, Encoded, Python};
use super::tensor_data::{Dtype, TensorData};
use super::value::Value;

/// torch aligns storages to this, so that they can be memory-mapped.
const ALIGNMENT: u16 = 64;

/// Writes `value` as `torch.save(value, path)` does; `archive` is what the entries' names begin with.
///
/// # Errors
/// A value that files cannot hold, or what the file system says.
pub fn write_torch(out: impl Write + Seek, archive: &str, value: &Value) -> Result<()> {
    let encoded = encode(value)?;
    let mut out = UntilError { inner: out, position: 0, length: 0, error: None };
    let written = write_zip(&mut out, archive, &encoded);
    // zip's own error would be a consequence of this one.
    match out.error {
        Some(error) => Err(error.into()),
        None => written.and_then(|()| Ok(out.inner.flush()?)),
    }
}

/// What [`write_torch`] writes, in memory.
///
/// # Errors
/// A value that files cannot hold.
pub fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    write_torch(&mut bytes, "archive", value)?;
    Ok(bytes.into_inner())
}

fn write_zip(out: impl Write + Seek, archive: &str, encoded: &Encoded) -> Result<()> {
    let mut zip = ZipWriter::new(out);
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .with_alignment(ALIGNMENT);
    let mut entry = |name: &str, bytes: &[u8]| -> Result<()> {
        let large = bytes.len() >= u32::MAX as usize;
        zip.start_file(format!("{archive}/{name}"), options.large_file(large))?;
        Ok(zip.write_all(bytes)?)
    };
    entry("data.pkl", &encoded.pickle)?;
    entry("byteorder", b"little")?;
    for (index, storage) in encoded.storages.iter().enumerate() {
        entry(&format!("data/{index}"), &storage.bytes()?)?;
        storage.release();
    }
    entry("version", b"3\n")?;
    zip.finish()?;
    Ok(())
}

/// Keeps the first error and swallows what is written after it: an unfinished [`ZipWriter`] tries to finish its archive
/// when it is dropped, and prints when it cannot.
struct UntilError<W> {
    inner: W,
    position: u64,
    length: u64,
    error: Option<io::Error>,
}

impl<W> UntilError<W> {
    fn attempt(&mut self, action: impl FnOnce(&mut W) -> io::Result<()>) {
        if self.error.is_none() {
            self.error = action(&mut self.inner).err();
        }
    }
}

impl<W: Write> Write for UntilError<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(|inner| inner.write_all(bytes));
        self.position += bytes.len() as u64;
        self.length = self.length.max(self.position);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(|inner| inner.flush());
        Ok(())
    }
}

impl<W: Seek> Seek for UntilError<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
        };
        self.position = place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let place = self.position;
        self.attempt(|inner| inner.seek(SeekFrom::Start(place)).map(drop));
        Ok(place)
    }
}

/// Writes `value` as one pickle with numpy arrays; gives the Python that reads it, which is the one asked for unless that
/// is 2 and an array is over 2 GB.
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
