//! Reading and writing weights and training state: torch's `.pth` in both formats, Caffe2's `.pkl`, `.safetensors`.
//!
//! - [`pickle`]: files as plain data, free of tensors
//! - [`model_serialization`]: which entry of a file fills which entry of a model
//! - [`c2_model_loading`], [`c2_model_saving`]: the names of Caffe2 and Detectron
//! - [`model_zoo`]: weights by address, downloaded once
//! - [`checkpointer`]: `last_checkpoint`, `model_0002500.pth`

pub mod c2_model_loading;
pub mod c2_model_saving;
pub mod checkpointer;
mod hints;
pub mod model_serialization;
pub mod model_zoo;
pub mod pickle;
mod tensor;

use std::fs::File;
use std::path::Path;

use anyhow::{ensure, Context, Result};

pub use checkpointer::{save_snapshot, Contents, DetectronCheckpointer, Loaded};
pub use model_serialization::{load_weights, LoadOptions, LoadReport, ModelState, StateDict};
pub use pickle::{write_file, Buffer, Dict, Dtype, Object, TensorData, Value};
pub use tensor::to_tensor;

use crate::ffi::system::map_file;

/// Reads a file of weights; its tensors are views of the memory-mapped file.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn read_file(path: &Path) -> Result<Value> {
    let open = || {
        let file = File::open(path)?;
        ensure!(file.metadata()?.len() > 0, "the file is empty");
        pickle::read(&Buffer::new(map_file(&file)?))
    };
    open().with_context(|| format!("{} could not be read", path.display()))
}

#[cfg(test)]
mod tests;
