//! The heads that look at regions of interest: boxes and classes, masks, keypoints.

pub mod box_head;
pub mod keypoint_head;
pub mod map_head;
pub mod mask_head;
#[allow(clippy::module_inception)] // the original's file name
pub mod roi_heads;

pub use roi_heads::{build_roi_heads, register, CombinedRoiHeads};
