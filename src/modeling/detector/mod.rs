//! The detector: backbone, RPN and heads together.

pub mod detectors;
pub mod generalized_rcnn;
mod ranges;
#[cfg(test)]
pub(crate) mod tests;

pub use detectors::build_detection_model;
pub use generalized_rcnn::{GeneralizedRcnn, Losses};
