//! The training and inference loops.

pub mod bbox_aug;
