//! Backbones, RPN, heads and the detector.

pub mod backbone;
pub mod detector;
pub mod make_layers;
pub mod registry;
pub mod roi_heads;
pub mod rpn;
