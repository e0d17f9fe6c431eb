//! The region proposal network, and RetinaNet, which stands in its place.

pub mod anchor_generator;
pub mod inference;
pub mod loss;
pub mod retinanet;
#[allow(clippy::module_inception)] // the original's file name
pub mod rpn;
pub mod utils;

pub use rpn::{build_rpn, register, ProposalNetwork, RpnModule};
