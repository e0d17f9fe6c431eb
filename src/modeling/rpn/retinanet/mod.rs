//! RetinaNet: dense detection in one stage (Focal Loss for Dense Object Detection).

pub mod inference;
pub mod loss;
#[allow(clippy::module_inception)] // the original's file name
pub mod retinanet;

pub use retinanet::{build_retinanet, RetinaNetModule};
