//! The training and inference loops.

pub mod bbox_aug;
pub mod coco_demo;
pub mod device;
pub mod drawing;
