//! Parameters by name, convolutions, norms, and the operators of `csrc`. Layers take numbers, never the configuration.
//!
//! The operators panic on tensors of a wrong shape, type or device, as tch's own methods do: inside a model that is a
//! bug.

pub mod batch_norm;
pub mod conv_norm;
pub mod dcn;
pub mod flops;
#[cfg(test)]
mod gradcheck;
mod kept;
mod match_by_iou;
pub mod misc;
mod nms;
pub mod parameters;
mod precision;
mod roi_align;
mod roi_pool;
mod sigmoid_focal_loss;
mod smooth_l1_loss;

pub use batch_norm::{BatchNorm2d, FrozenBatchNorm2d, GroupNorm, Norm};
pub use conv_norm::ConvNorm;
pub use flops::FlopCounter;
pub(crate) use kept::Kept;
pub use match_by_iou::{match_by_iou, IouMatches, Predictions};
pub use misc::{
    interpolate, Conv2d, ConvConfig, ConvTranspose2d, DFConv2d, DFConvConfig, InterpolateMode, Linear, LinearConfig,
    Size,
};
pub use nms::{nms, nms_mask, nms_with_rule, NmsGroups, SuppressionRule};
pub use parameters::{Init, ParamPath, Parameters};
pub use precision::{full_precision, Precision};
pub use roi_align::{multi_scale_roi_align, roi_align};
pub use roi_pool::roi_pool;
pub use sigmoid_focal_loss::sigmoid_focal_loss;
pub use smooth_l1_loss::smooth_l1_loss;
