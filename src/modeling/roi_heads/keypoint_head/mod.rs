//! The keypoint head.

pub mod inference;
#[allow(clippy::module_inception)] // the original's file name
pub mod keypoint_head;
pub mod loss;
pub mod roi_keypoint_feature_extractors;
pub mod roi_keypoint_predictors;

pub use keypoint_head::{build_roi_keypoint_head, RoiKeypointHead};
