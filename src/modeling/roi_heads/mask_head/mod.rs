//! The mask head.

pub mod inference;
pub mod loss;
#[allow(clippy::module_inception)] // the original's file name
pub mod mask_head;
pub mod roi_mask_feature_extractors;
pub mod roi_mask_predictors;

pub use mask_head::{build_roi_mask_head, RoiMaskHead};
