//! The `MODEL` section, with the backbone.

mod anchor_sizes;
mod roi_heads;
mod rpn;

use serde::{Deserialize, Serialize};

use crate::config::{nullable, Tuple};

pub use anchor_sizes::AnchorSizes;
pub use roi_heads::*;
pub use rpn::*;

/// The `MODEL` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct ModelConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// One box for all classes instead of one a class.
    pub cls_agnostic_bbox_reg: bool,
    /// `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// FBNet.
    pub fbnet: FbNetConfig,
    /// The feature pyramid.
    pub fpn: FpnConfig,
    /// Group norm, wherever it is used.
    pub group_norm: GroupNormConfig,
    /// Detect keypoints.
    pub keypoint_on: bool,
    /// Detect masks.
    pub mask_on: bool,
    /// The detector's name.
    pub meta_architecture: String,
    /// ResNet, ResNeXt and Res2Net, as backbone and as head.
    pub resnets: ResNetsConfig,
    /// RetinaNet.
    pub retinanet: RetinaNetConfig,
    /// RetinaNet instead of RPN and heads.
    pub retinanet_on: bool,
    /// The head for boxes and classes.
    pub roi_box_head: RoiBoxHeadConfig,
    /// What concerns all heads.
    pub roi_heads: RoiHeadsConfig,
    /// The head for keypoints.
    pub roi_keypoint_head: RoiKeypointHeadConfig,
    /// The head for masks.
    pub roi_mask_head: RoiMaskHeadConfig,
    /// The region proposal network.
    pub rpn: RpnConfig,
    /// Proposals alone, no heads.
    pub rpn_only: bool,
    /// Weights to start from: a file, an address, or `catalog://NAME`
    /// ([`ModelCatalog`](crate::config::model_catalog::ModelCatalog)). Empty for none.
    #[serde(deserialize_with = "nullable::weight")]
    pub weight: String,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            backbone: BackboneConfig::default(),
            cls_agnostic_bbox_reg: false,
            device: "cuda".into(),
            fbnet: FbNetConfig::default(),
            fpn: FpnConfig::default(),
            group_norm: GroupNormConfig::default(),
            keypoint_on: false,
            mask_on: false,
            meta_architecture: "GeneralizedRCNN".into(),
            resnets: ResNetsConfig::default(),
            retinanet: RetinaNetConfig::default(),
            retinanet_on: false,
            roi_box_head: RoiBoxHeadConfig::default(),
            roi_heads: RoiHeadsConfig::default(),
            roi_keypoint_head: RoiKeypointHeadConfig::default(),
            roi_mask_head: RoiMaskHeadConfig::default(),
            rpn: RpnConfig::default(),
            rpn_only: false,
            weight: String::new(),
        }
    }
}

/// The `MODEL.BACKBONE` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct BackboneConfig {
    /// The backbone's name in the registry.
    pub conv_body: String,
    /// Stages that are not trained: the stem and those before this number; 0 trains everything.
    pub freeze_conv_body_at: i64,
    /// Without effect, as in the Res2Net fork, whose key it is: `MODEL.RESNETS.TRANS_FUNC` and `STEM_FUNC` choose the
    /// norm.
    pub use_gn: bool,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self { conv_body: "R-50-C4".into(), freeze_conv_body_at: 2, use_gn: false }
    }
}

/// The `MODEL.FBNET` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct FbNetConfig {
    /// Name of the architecture.
    pub arch: String,
    /// An architecture as JSON, in place of a named one.
    pub arch_def: String,
    /// Norm of the blocks: `bn`, `gn` or `af`.
    pub bn_type: String,
    /// Blocks of the box head, as indices into the architecture; empty for its own.
    pub det_head_blocks: Vec<i64>,
    /// Scale of the box head's last width; 0 leaves the last block out, below 0 keeps its width.
    pub det_head_last_scale: f64,
    /// Stride of the box head; 0 for its own.
    pub det_head_stride: i64,
    /// No norm after depthwise convolutions.
    pub dw_conv_skip_bn: bool,
    /// No ReLU after depthwise convolutions.
    pub dw_conv_skip_relu: bool,
    /// As `det_head_blocks`, for keypoints.
    pub kpts_head_blocks: Vec<i64>,
    /// As `det_head_last_scale`, for keypoints.
    pub kpts_head_last_scale: f64,
    /// As `det_head_stride`, for keypoints.
    pub kpts_head_stride: i64,
    /// As `det_head_blocks`, for masks.
    pub mask_head_blocks: Vec<i64>,
    /// As `det_head_last_scale`, for masks.
    pub mask_head_last_scale: f64,
    /// As `det_head_stride`, for masks.
    pub mask_head_stride: i64,
    /// Norm of the RPN's blocks; empty for the backbone's.
    pub rpn_bn_type: String,
    /// Number of blocks in the RPN; 0 for all.
    pub rpn_head_blocks: i64,
    /// Factor of all widths.
    pub scale_factor: f64,
    /// Widths are multiples of it.
    pub width_divisor: i64,
}

impl Default for FbNetConfig {
    fn default() -> Self {
        Self {
            arch: "default".into(),
            arch_def: String::new(),
            bn_type: "bn".into(),
            det_head_blocks: Vec::new(),
            det_head_last_scale: 1.0,
            det_head_stride: 0,
            dw_conv_skip_bn: true,
            dw_conv_skip_relu: true,
            kpts_head_blocks: Vec::new(),
            kpts_head_last_scale: 0.0,
            kpts_head_stride: 0,
            mask_head_blocks: Vec::new(),
            mask_head_last_scale: 0.0,
            mask_head_stride: 0,
            rpn_bn_type: String::new(),
            rpn_head_blocks: 0,
            scale_factor: 1.0,
            width_divisor: 1,
        }
    }
}

/// The `MODEL.FPN` section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct FpnConfig {
    /// Group norm after the pyramid's convolutions.
    pub use_gn: bool,
    /// ReLU after the pyramid's convolutions.
    pub use_relu: bool,
}

/// The `MODEL.GROUP_NORM` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct GroupNormConfig {
    /// Channels a group; -1 where the number of groups is given.
    pub dim_per_gp: i64,
    /// Added to the variance.
    pub epsilon: f64,
    /// Number of groups; -1 where their width is given.
    pub num_groups: i64,
}

impl Default for GroupNormConfig {
    fn default() -> Self {
        Self { dim_per_gp: -1, epsilon: 1e-05, num_groups: 32 }
    }
}

/// The `MODEL.RESNETS` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct ResNetsConfig {
    /// Channels of the backbone's output, with a pyramid those of its levels.
    pub backbone_out_channels: i64,
    /// Groups of offsets in deformable convolutions.
    pub deformable_groups: i64,
    /// Groups of the 3×3 convolutions; more than 1 makes it a ResNeXt.
    pub num_groups: i64,
    /// Channels of the first stage's output; every further stage doubles them.
    pub res2_out_channels: i64,
    /// Dilation of the last stage.
    pub res5_dilation: i64,
    /// Parts that a Res2Net block splits its channels into (the Res2Net fork only).
    pub scale: i64,
    /// Which of the four stages have deformable convolutions.
    pub stage_with_dcn: Tuple<bool>,
    /// The stem's name.
    pub stem_func: String,
    /// Channels of the stem's output.
    pub stem_out_channels: i64,
    /// The stride is in a block's first 1×1 convolution (the original ResNet) instead of its 3×3 one.
    pub stride_in_1x1: bool,
    /// The block's name.
    pub trans_func: String,
    /// Channels of each group, in Res2Net of each part.
    pub width_per_group: i64,
    /// Deformable convolutions have a mask (version 2).
    pub with_modulated_dcn: bool,
}

impl Default for ResNetsConfig {
    fn default() -> Self {
        Self {
            backbone_out_channels: 1024,
            deformable_groups: 1,
            num_groups: 1,
            res2_out_channels: 256,
            res5_dilation: 1,
            scale: 4,
            stage_with_dcn: Tuple(vec![false, false, false, false]),
            stem_func: "StemWithFixedBatchNorm".into(),
            stem_out_channels: 64,
            stride_in_1x1: true,
            trans_func: "BottleneckWithFixedBatchNorm".into(),
            width_per_group: 64,
            with_modulated_dcn: false,
        }
    }
}
