//! Files of weights as plain data, without tensors of libtorch and without executing anything.
//!
//! A file is memory-mapped, recognised by its content, and becomes a tree of [`Value`]s whose tensors are views of the
//! mapped bytes. Pickles are run by a machine that knows a short list of names (`globals.rs`); anything else is an
//! error that says the name. Memory is bounded by the size of the file: nodes, nesting and repetition have limits,
//! sizes are checked against the bytes that are there, and compressed archives are refused.
//!
//! This folder depends on nothing else in the crate, so that `fuzz/` can compile it alone.

mod archive;
mod buffer;
mod encode;
mod finish;
mod globals;
mod machine;
mod node;
mod numpy;
mod opcodes;
mod safetensors;
mod tensor_data;
mod text;
mod torch_legacy;
mod torch_zip;
mod value;
mod write;

pub use buffer::{Buffer, Source};
pub use encode::Python;
pub use tensor_data::{Dtype, TensorData};
pub use value::{Dict, Object, Value};
pub use write::{to_bytes, write_pickle, write_safetensors, write_torch};

use anyhow::{ensure, Context, Result};

/// Reads a file's bytes: torch zip, torch stream, safetensors, or a plain pickle (Caffe2).
///
/// # Errors
/// Content that is none of these, damaged, or not allowed.
pub fn read(file: &Buffer) -> Result<Value> {
    ensure!(!file.is_empty(), "the file is empty");
    if torch_zip::matches(file) {
        return torch_zip::read(file);
    }
    if torch_legacy::matches(file) {
        return torch_legacy::read(file);
    }
    if safetensors::matches(file) {
        return safetensors::read(file);
    }
    let first = file.raw()[0];
    ensure!(
        first == 0x80 || matches!(first, b'(' | b'}' | b']' | b'c'),
        "the file is none of: torch.save (zip or stream), pickle, safetensors"
    );
    let pickled = machine::run(file, 0)?;
    finish::finish(&pickled, file.len(), &mut finish::no_storages)
        .context("the file is a plain pickle, as Caffe2 and Detectron write them")
}

#[cfg(test)]
mod tests;
