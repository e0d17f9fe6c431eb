//! The box head: classes and refined boxes.

#[allow(clippy::module_inception)] // the original's file name
pub mod box_head;
pub mod inference;
pub mod loss;
pub mod roi_box_feature_extractors;
pub mod roi_box_predictors;

pub use box_head::{build_roi_box_head, RoiBoxHead};
