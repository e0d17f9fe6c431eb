//! Datasets, transforms, samplers, loading and evaluation.

pub mod datasets;
pub mod evaluation;
pub mod random;
pub mod samplers;
pub mod shapes;
pub mod transforms;
