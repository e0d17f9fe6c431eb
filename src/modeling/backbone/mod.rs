//! Backbones: ResNet, ResNeXt and Res2Net bodies with or without a feature pyramid on top, and FBNet.

#[allow(clippy::module_inception)]
mod backbone;
pub mod blocks;
pub mod bottleneck;
pub mod fbnet;
pub mod fbnet_blocks;
pub mod fbnet_builder;
mod fbnet_irf;
pub mod fbnet_modeldef;
pub mod fpn;
pub mod res2net;
pub mod resnet;

pub use backbone::{build_backbone, register, BodyBackbone, FpnBackbone};
