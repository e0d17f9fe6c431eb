//! Files of weights on the disk: memory-mapped to read, replaced as a whole to write.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::model_serialization::StateDict;
use super::pickle::{self, Buffer, Python, Source, Value};
use crate::ffi::system::MappedFile;
use crate::utils::atomic_file::atomically;
use crate::utils::fault;

impl Source for MappedFile {
    fn release(&self, range: Range<usize>) {
        MappedFile::release(self, range);
    }
}

/// Reads a file of weights; its tensors are views of the memory-mapped file.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn read_file(path: &Path) -> Result<Value> {
    let open = || {
        let file = File::open(path)?;
        ensure!(file.metadata()?.len() > 0, "the file is empty");
        pickle::read(&Buffer::new(MappedFile::new(&file)?))
    };
    open().with_context(|| format!("{} could not be read", path.display()))
}

/// Writes `value` as `torch.save(value, path)` does. The file appears complete or not at all.
///
/// # Errors
/// What the file system says (a full disk included); the previous file of that name is then still there. This holds for
/// every function here that writes.
pub fn write_file(path: &Path, value: &Value) -> Result<()> {
    let archive = path.file_stem().map_or_else(|| "archive".to_string(), |stem| stem.to_string_lossy().into_owned());
    atomically(path, |file, _| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        pickle::write_torch(&mut out, &archive, value)?;
        fault::reach("checkpoint file");
        Ok(out.flush()?)
    })
}

/// Writes `value` as one pickle with numpy arrays; gives the Python that reads it, which is the one asked for unless
/// that is 2 and an array is over 2 GB.
///
/// # Errors
/// As [`write_file`]; also element types that numpy does not have.
pub fn write_pickle(path: &Path, value: &Value, python: Python) -> Result<Python> {
    atomically(path, |file, _| pickle::write_pickle(BufWriter::with_capacity(1 << 20, file), value, python))
}

/// Writes named tensors as a safetensors file.
///
/// # Errors
/// As [`write_file`].
pub fn write_safetensors(path: &Path, tensors: &StateDict) -> Result<()> {
    atomically(path, |_, temporary| pickle::write_safetensors(temporary, tensors))
}
