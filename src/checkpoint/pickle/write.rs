//! Writing files: torch.save's zip format and safetensors, so that a crash leaves the previous file whole.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use safetensors::tensor::View;
use safetensors::Dtype as Stored;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::encode::{encode, encode_arrays, Encoded};
use super::tensor_data::{Dtype, TensorData};
use super::value::Value;
use crate::utils::fault;

/// torch aligns storages to this, so that they can be memory-mapped.
const ALIGNMENT: u16 = 64;

/// Writes `value` as `torch.save(value, path)` does. The file appears complete or not at all.
///
/// # Errors
/// What the file system says (a full disk included); the previous file of that name is then still there.
pub fn write_file(path: &Path, value: &Value) -> Result<()> {
    let archive = path.file_stem().map_or_else(|| "archive".to_string(), |stem| stem.to_string_lossy().into_owned());
    let encoded = encode(value)?;
    atomically(path, |file, _| write_zip(BufWriter::with_capacity(1 << 20, file), &archive, &encoded))
}

/// What [`write_file`] writes, in memory.
///
/// # Errors
/// A value that files cannot hold.
pub fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    write_zip(&mut bytes, "archive", &encode(value)?)?;
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
        if index == encoded.storages.len() / 2 {
            fault::reach("checkpoint file");
        }
    }
    entry("version", b"3\n")?;
    zip.finish()?.flush()?;
    Ok(())
}

/// Writes `value` as one pickle with numpy arrays, as Caffe2 and Detectron do, as atomically.
pub fn write_pickle(path: &Path, value: &Value) -> Result<()> {
    let pickle = encode_arrays(value)?;
    atomically(path, |mut file, _| Ok(file.write_all(&pickle)?))
}

/// Writes named tensors as a safetensors file, as atomically.
pub fn write_safetensors(path: &Path, tensors: &[(String, TensorData)]) -> Result<()> {
    let views: Vec<(&str, Contiguous)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let shape = tensor.shape().iter().map(|d| *d as usize).collect();
            let bytes = tensor.bytes().with_context(|| format!("tensor {name:?}"))?;
            Ok((name.as_str(), Contiguous { dtype: stored(tensor.dtype()), shape, bytes }))
        })
        .collect::<Result<_>>()?;
    atomically(path, |_, temporary| Ok(safetensors::serialize_to_file(views, None, temporary)?))
}

struct Contiguous<'a> {
    dtype: Stored,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for Contiguous<'_> {
    fn dtype(&self) -> Stored {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
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

/// Gives `fill` a temporary file beside `path`, which takes its name once everything is on the disk.
pub fn atomically(path: &Path, fill: impl FnOnce(&File, &Path) -> Result<()>) -> Result<()> {
    let temporary = temporary(path);
    let written = File::create(&temporary)
        .map_err(anyhow::Error::from)
        .and_then(|file| {
            fill(&file, &temporary)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            Ok(())
        })
        .with_context(|| format!("{} could not be written; an earlier file of that name is untouched", path.display()));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The rename itself is on the disk once the folder is.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("{}", folder.display()))
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}
