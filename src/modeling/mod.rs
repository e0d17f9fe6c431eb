//! Backbones, RPN, heads and the detector.

pub mod backbone;
pub mod balanced_positive_negative_sampler;
pub mod batch;
pub mod box_coder;
pub mod detector;
pub mod make_layers;
pub mod matcher;
pub mod poolers;
pub mod registry;
pub mod roi_heads;
pub mod rpn;
pub mod utils;
