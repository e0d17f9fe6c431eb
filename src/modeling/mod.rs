//! Backbones, RPN, heads and the detector.

pub mod backbone;
pub mod detector;
pub mod roi_heads;
pub mod rpn;
