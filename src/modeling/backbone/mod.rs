//! Backbones: ResNet, ResNeXt and Res2Net bodies, and the feature pyramid on top of them.

#[allow(clippy::module_inception)]
mod backbone;
pub mod fpn;
pub mod res2net;
pub mod resnet;

pub use backbone::{build_backbone, register, BodyBackbone, FpnBackbone};
