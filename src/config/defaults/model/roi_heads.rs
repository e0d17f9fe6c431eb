//! The heads.

use serde::{Deserialize, Serialize};

use crate::config::Tuple;

/// The `MODEL.ROI_HEADS` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RoiHeadsConfig {
    /// Proposals an image in the loss.
    pub batch_size_per_image: i64,
    /// Factors of the box targets dx, dy, dw, dh.
    pub bbox_reg_weights: Tuple<f64>,
    /// A proposal whose best IoU is below it is background.
    pub bg_iou_threshold: f64,
    /// Detections kept an image.
    pub detections_per_img: i64,
    /// A proposal whose best IoU is at least this is an object.
    pub fg_iou_threshold: f64,
    /// IoU of non-maximum suppression.
    pub nms: f64,
    /// Largest share of objects among the proposals in the loss.
    pub positive_fraction: f64,
    /// Least score of a detection.
    pub score_thresh: f64,
    /// Pool from all levels of a pyramid.
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

/// The `MODEL.ROI_BOX_HEAD` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RoiBoxHeadConfig {
    /// Channels of the convolutions of an Xconv1fc head.
    pub conv_head_dim: i64,
    /// Dilation of the convolutions.
    pub dilation: i64,
    /// The feature extractor's name in the registry.
    pub feature_extractor: String,
    /// Width of the fully connected layers.
    pub mlp_head_dim: i64,
    /// Number of classes, the background included.
    pub num_classes: i64,
    /// Number of convolutions of an Xconv1fc head.
    pub num_stacked_convs: i64,
    /// Height and width of the pooled features.
    pub pooler_resolution: i64,
    /// Samples of RoIAlign in each direction of a bin; 0 takes as many as the bin has pixels.
    pub pooler_sampling_ratio: i64,
    /// Scale of each feature map that is pooled from.
    pub pooler_scales: Tuple<f64>,
    /// The predictor's name in the registry.
    pub predictor: String,
    /// Group norm.
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

/// The `MODEL.ROI_MASK_HEAD` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RoiMaskHeadConfig {
    /// Channels of the convolutions.
    pub conv_layers: Tuple<i64>,
    /// Dilation of the convolutions.
    pub dilation: i64,
    /// The feature extractor's name in the registry.
    pub feature_extractor: String,
    /// Not used by the built-in heads.
    pub mlp_head_dim: i64,
    /// Height and width of the pooled features.
    pub pooler_resolution: i64,
    /// Samples of RoIAlign in each direction of a bin; 0 takes as many as the bin has pixels.
    pub pooler_sampling_ratio: i64,
    /// Scale of each feature map that is pooled from.
    pub pooler_scales: Tuple<f64>,
    /// Paste the masks into the image at once.
    pub postprocess_masks: bool,
    /// Probability from which on a pasted mask is set.
    pub postprocess_masks_threshold: f64,
    /// The predictor's name in the registry.
    pub predictor: String,
    /// Height and width of the masks.
    pub resolution: i64,
    /// Use the box head's features.
    pub share_box_feature_extractor: bool,
    /// Group norm.
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

/// The `MODEL.ROI_KEYPOINT_HEAD` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RoiKeypointHeadConfig {
    /// Channels of the convolutions.
    pub conv_layers: Tuple<i64>,
    /// The feature extractor's name in the registry.
    pub feature_extractor: String,
    /// Not used by the built-in heads.
    pub mlp_head_dim: i64,
    /// Number of keypoints of a person.
    pub num_classes: i64,
    /// Height and width of the pooled features.
    pub pooler_resolution: i64,
    /// Samples of RoIAlign in each direction of a bin; 0 takes as many as the bin has pixels.
    pub pooler_sampling_ratio: i64,
    /// Scale of each feature map that is pooled from.
    pub pooler_scales: Tuple<f64>,
    /// The predictor's name in the registry.
    pub predictor: String,
    /// Height and width of the heat maps.
    pub resolution: i64,
    /// Use the box head's features.
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
