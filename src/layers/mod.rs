//! Parameters by name, convolutions, norms, and the operators of `csrc`. Layers take numbers, never the configuration.
//!
//! The operators panic on tensors of a wrong shape, type or device, as tch's own methods do: inside a model that is a
//! bug.

pub mod batch_norm;
pub mod conv_norm;
<<<<<<< HEAD
pub mod flops;
=======
pub mod dcn;
#[cfg(test)]
mod gradcheck;
mod match_by_iou;
>>>>>>> ba2e53a (Add RoIPool, focal loss, smooth L1, deformable convolution and pooling, low-memory matching, generators)
pub mod misc;
mod nms;
pub mod parameters;
mod roi_align;
<<<<<<< HEAD
=======
mod roi_pool;
>>>>>>> ba2e53a (Add RoIPool, focal loss, smooth L1, deformable convolution and pooling, low-memory matching, generators)
mod sigmoid_focal_loss;
mod smooth_l1_loss;

pub use batch_norm::{BatchNorm2d, FrozenBatchNorm2d, GroupNorm, Norm};
pub use conv_norm::ConvNorm;
<<<<<<< HEAD
pub use flops::FlopCounter;
=======
pub use match_by_iou::{match_by_iou, IouMatches};
>>>>>>> ba2e53a (Add RoIPool, focal loss, smooth L1, deformable convolution and pooling, low-memory matching, generators)
pub use misc::{interpolate, Conv2d, ConvConfig, ConvTranspose2d, InterpolateMode, Linear, LinearConfig, Size};
pub use nms::{nms, nms_with_rule, SuppressionRule};
pub use parameters::{Init, ParamPath, Parameters};
pub use roi_align::roi_align;
<<<<<<< HEAD
=======
pub use roi_pool::roi_pool;
>>>>>>> ba2e53a (Add RoIPool, focal loss, smooth L1, deformable convolution and pooling, low-memory matching, generators)
pub use sigmoid_focal_loss::sigmoid_focal_loss;
pub use smooth_l1_loss::smooth_l1_loss;
