//! The `MODEL` section.

use serde::{Deserialize, Serialize};

use crate::config::Tuple;

/// The `MODEL` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct ModelConfig {
    pub backbone: BackboneConfig,
    pub cls_agnostic_bbox_reg: bool,
    pub device: String,
    pub fbnet: FbNetConfig,
    pub fpn: FpnConfig,
    pub group_norm: GroupNormConfig,
    pub keypoint_on: bool,
    pub mask_on: bool,
    pub meta_architecture: String,
    pub resnets: ResNetsConfig,
    pub retinanet: RetinaNetConfig,
    pub retinanet_on: bool,
    pub roi_box_head: RoiBoxHeadConfig,
    pub roi_heads: RoiHeadsConfig,
    pub roi_keypoint_head: RoiKeypointHeadConfig,
    pub roi_mask_head: RoiMaskHeadConfig,
    pub rpn: RpnConfig,
    pub rpn_only: bool,
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
    pub conv_body: String,
    pub freeze_conv_body_at: i64,
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
    pub arch: String,
    pub arch_def: String,
    pub bn_type: String,
    pub det_head_blocks: Vec<i64>,
    pub det_head_last_scale: f64,
    pub det_head_stride: i64,
    pub dw_conv_skip_bn: bool,
    pub dw_conv_skip_relu: bool,
    pub kpts_head_blocks: Vec<i64>,
    pub kpts_head_last_scale: f64,
    pub kpts_head_stride: i64,
    pub mask_head_blocks: Vec<i64>,
    pub mask_head_last_scale: f64,
    pub mask_head_stride: i64,
    pub rpn_bn_type: String,
    pub rpn_head_blocks: i64,
    pub scale_factor: f64,
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
    pub use_gn: bool,
    pub use_relu: bool,
}

/// The `MODEL.GROUP_NORM` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct GroupNormConfig {
    pub dim_per_gp: i64,
    pub epsilon: f64,
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
    pub backbone_out_channels: i64,
    pub deformable_groups: i64,
    pub num_groups: i64,
    pub res2_out_channels: i64,
    pub res5_dilation: i64,
    pub scale: i64,
    pub stage_with_dcn: Tuple<bool>,
    pub stem_func: String,
    pub stem_out_channels: i64,
    pub stride_in_1x1: bool,
    pub trans_func: String,
    pub width_per_group: i64,
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

/// The `MODEL.RETINANET` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RetinaNetConfig {
    pub anchor_sizes: Tuple<i64>,
    pub anchor_strides: Tuple<i64>,
    pub aspect_ratios: Tuple<f64>,
    pub bbox_reg_beta: f64,
    pub bbox_reg_weight: f64,
    pub bg_iou_threshold: f64,
    pub fg_iou_threshold: f64,
    pub inference_th: f64,
    pub loss_alpha: f64,
    pub loss_gamma: f64,
    pub nms_th: f64,
    pub num_classes: i64,
    pub num_convs: i64,
    pub octave: f64,
    pub pre_nms_top_n: i64,
    pub prior_prob: f64,
    pub scales_per_octave: i64,
    pub straddle_thresh: i64,
    pub use_c5: bool,
}

impl Default for RetinaNetConfig {
    fn default() -> Self {
        Self {
            anchor_sizes: Tuple(vec![32, 64, 128, 256, 512]),
            anchor_strides: Tuple(vec![8, 16, 32, 64, 128]),
            aspect_ratios: Tuple(vec![0.5, 1.0, 2.0]),
            bbox_reg_beta: 0.11,
            bbox_reg_weight: 4.0,
            bg_iou_threshold: 0.4,
            fg_iou_threshold: 0.5,
            inference_th: 0.05,
            loss_alpha: 0.25,
            loss_gamma: 2.0,
            nms_th: 0.4,
            num_classes: 81,
            num_convs: 4,
            octave: 2.0,
            pre_nms_top_n: 1000,
            prior_prob: 0.01,
            scales_per_octave: 3,
            straddle_thresh: 0,
            use_c5: true,
        }
    }
}

/// The `MODEL.ROI_BOX_HEAD` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RoiBoxHeadConfig {
    pub conv_head_dim: i64,
    pub dilation: i64,
    pub feature_extractor: String,
    pub mlp_head_dim: i64,
    pub num_classes: i64,
    pub num_stacked_convs: i64,
    pub pooler_resolution: i64,
    pub pooler_sampling_ratio: i64,
    pub pooler_scales: Tuple<f64>,
    pub predictor: String,
    pub use_gn: bool,
}

impl Default for RoiBoxHeadConfig {
    fn default() -> Self {
        Self {
            conv_head_dim: 256,
            dilation: 1,
            feature_extractor: "ResNet50Conv5ROIFeatureExtractor".into(),
            mlp_head_dim: 1024,
            num_classes: 81,
            num_stacked_convs: 4,
            pooler_resolution: 14,
            pooler_sampling_ratio: 0,
            pooler_scales: Tuple(vec![0.0625]),
            predictor: "FastRCNNPredictor".into(),
            use_gn: false,
        }
    }
}

/// The `MODEL.ROI_HEADS` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RoiHeadsConfig {
    pub batch_size_per_image: i64,
    pub bbox_reg_weights: Tuple<f64>,
    pub bg_iou_threshold: f64,
    pub detections_per_img: i64,
    pub fg_iou_threshold: f64,
    pub nms: f64,
    pub positive_fraction: f64,
    pub score_thresh: f64,
    pub use_fpn: bool,
}

impl Default for RoiHeadsConfig {
    fn default() -> Self {
        Self {
            batch_size_per_image: 512,
            bbox_reg_weights: Tuple(vec![10.0, 10.0, 5.0, 5.0]),
            bg_iou_threshold: 0.5,
            detections_per_img: 100,
            fg_iou_threshold: 0.5,
            nms: 0.5,
            positive_fraction: 0.25,
            score_thresh: 0.05,
            use_fpn: false,
        }
    }
}

/// The `MODEL.ROI_KEYPOINT_HEAD` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RoiKeypointHeadConfig {
    pub conv_layers: Tuple<i64>,
    pub feature_extractor: String,
    pub mlp_head_dim: i64,
    pub num_classes: i64,
    pub pooler_resolution: i64,
    pub pooler_sampling_ratio: i64,
    pub pooler_scales: Tuple<f64>,
    pub predictor: String,
    pub resolution: i64,
    pub share_box_feature_extractor: bool,
}

impl Default for RoiKeypointHeadConfig {
    fn default() -> Self {
        Self {
            conv_layers: Tuple(vec![512, 512, 512, 512, 512, 512, 512, 512]),
            feature_extractor: "KeypointRCNNFeatureExtractor".into(),
            mlp_head_dim: 1024,
            num_classes: 17,
            pooler_resolution: 14,
            pooler_sampling_ratio: 0,
            pooler_scales: Tuple(vec![0.0625]),
            predictor: "KeypointRCNNPredictor".into(),
            resolution: 14,
            share_box_feature_extractor: true,
        }
    }
}

/// The `MODEL.ROI_MASK_HEAD` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RoiMaskHeadConfig {
    pub conv_layers: Tuple<i64>,
    pub dilation: i64,
    pub feature_extractor: String,
    pub mlp_head_dim: i64,
    pub pooler_resolution: i64,
    pub pooler_sampling_ratio: i64,
    pub pooler_scales: Tuple<f64>,
    pub postprocess_masks: bool,
    pub postprocess_masks_threshold: f64,
    pub predictor: String,
    pub resolution: i64,
    pub share_box_feature_extractor: bool,
    pub use_gn: bool,
}

impl Default for RoiMaskHeadConfig {
    fn default() -> Self {
        Self {
            conv_layers: Tuple(vec![256, 256, 256, 256]),
            dilation: 1,
            feature_extractor: "ResNet50Conv5ROIFeatureExtractor".into(),
            mlp_head_dim: 1024,
            pooler_resolution: 14,
            pooler_sampling_ratio: 0,
            pooler_scales: Tuple(vec![0.0625]),
            postprocess_masks: false,
            postprocess_masks_threshold: 0.5,
            predictor: "MaskRCNNC4Predictor".into(),
            resolution: 14,
            share_box_feature_extractor: true,
            use_gn: false,
        }
    }
}

/// The `MODEL.RPN` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RpnConfig {
    pub anchor_sizes: Tuple<i64>,
    pub anchor_stride: Tuple<i64>,
    pub aspect_ratios: Tuple<f64>,
    pub batch_size_per_image: i64,
    pub bg_iou_threshold: f64,
    pub fg_iou_threshold: f64,
    pub fpn_post_nms_per_batch: bool,
    pub fpn_post_nms_top_n_test: i64,
    pub fpn_post_nms_top_n_train: i64,
    pub min_size: i64,
    pub nms_thresh: f64,
    pub positive_fraction: f64,
    pub post_nms_top_n_test: i64,
    pub post_nms_top_n_train: i64,
    pub pre_nms_top_n_test: i64,
    pub pre_nms_top_n_train: i64,
    pub rpn_head: String,
    pub straddle_thresh: i64,
    pub use_fpn: bool,
}

impl Default for RpnConfig {
    fn default() -> Self {
        Self {
            anchor_sizes: Tuple(vec![32, 64, 128, 256, 512]),
            anchor_stride: Tuple(vec![16]),
            aspect_ratios: Tuple(vec![0.5, 1.0, 2.0]),
            batch_size_per_image: 256,
            bg_iou_threshold: 0.3,
            fg_iou_threshold: 0.7,
            fpn_post_nms_per_batch: true,
            fpn_post_nms_top_n_test: 2000,
            fpn_post_nms_top_n_train: 2000,
            min_size: 0,
            nms_thresh: 0.7,
            positive_fraction: 0.5,
            post_nms_top_n_test: 1000,
            post_nms_top_n_train: 2000,
            pre_nms_top_n_test: 6000,
            pre_nms_top_n_train: 12000,
            rpn_head: "SingleConvRPNHead".into(),
            straddle_thresh: 0,
            use_fpn: false,
        }
    }
}
