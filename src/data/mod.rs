//! Datasets, transforms, samplers, loading and evaluation.

pub mod build;
pub mod collate_batch;
pub mod datasets;
pub mod evaluation;
pub mod loader;
pub mod random;
pub mod samplers;
pub mod shapes;
pub mod transforms;

pub use build::{images_per_gpu, make_data_loader, LoaderOptions};
pub use collate_batch::{Batch, Collator};
pub use loader::{Batches, DataLoader, LoaderState};
