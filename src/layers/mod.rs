//! Parameters by name, convolutions, norms, and the operators of `csrc`. Layers take numbers, never the configuration.

pub mod parameters;

pub use parameters::{Init, ParamPath, Parameters};
