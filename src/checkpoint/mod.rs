//! Reading and writing weights and training state: torch's `.pth` in both formats, Caffe2's `.pkl`, `.safetensors`.
//!
//! - [`pickle`]: files' contents as plain data, free of tensors
//! - [`model_serialization`]: which entry of a file fills which entry of a model
//! - [`c2_model_loading`], [`c2_model_saving`]: the names of Caffe2 and Detectron
//! - [`model_zoo`]: weights by address, downloaded once
//! - [`checkpointer`]: `last_checkpoint`, `model_0002500.pth`

pub mod c2_model_loading;
pub mod c2_model_saving;
pub mod checkpointer;
mod files;
mod hints;
pub mod model_serialization;
pub mod model_zoo;
pub mod pickle;
mod tensor;

pub use checkpointer::{save_snapshot, Contents, DetectronCheckpointer, Loaded};
pub use files::{read_file, write_file, write_pickle, write_safetensors};
pub use model_serialization::{load_weights, LoadOptions, LoadReport, ModelState, StateDict};
pub use pickle::{Buffer, Dict, Dtype, Object, Python, TensorData, Value};
pub use tensor::to_tensor;

#[cfg(test)]
mod tests;
