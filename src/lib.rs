//! maskrcnn-benchmark and its Res2Net fork, in Rust on libtorch.
//!
//! In reading order:
//!
//! - [`config`]: the original's YAML files and `KEY VALUE` overrides, resolved into one typed `Config`
//! - [`ffi`]: safe functions over `csrc/api.h` and the operating system, the only place with `unsafe` code
//! - [`layers`]: parameters by name, convolutions, norms, and the operators of `csrc`
//! - [`structures`]: `BoxList`, `ImageList`, masks and keypoints
//! - [`modeling`]: backbones, RPN, heads, the detector
//! - [`data`]: datasets, transforms, samplers, loading, evaluation
//! - [`solver`]: optimizer and learning-rate schedule
//! - [`checkpoint`]: reading and writing weights and training state
//! - [`engine`]: the training and inference loops
//! - [`cli`]: what the programs do, callable from a user's own `main`
//! - [`utils`]: logging, metrics, timing
//!
//! Imports go one way: `config`, `ffi` ← `layers` ← `structures` ← `modeling`, `data` ← `engine` ← `cli`; `checkpoint`
//! knows `layers`, `data` (predictions) and `solver` (states) write through it, and `utils` knows nobody but `ffi`.
#![deny(unsafe_code)]
#![warn(missing_docs, clippy::missing_errors_doc)]

pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod engine;
#[allow(unsafe_code)]
pub mod ffi;
pub mod layers;
pub mod modeling;
pub mod solver;
pub mod structures;
pub mod utils;
