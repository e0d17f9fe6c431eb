//! Proposals: RPN and RetinaNet.

use serde::{Deserialize, Serialize};

use super::AnchorSizes;
use crate::config::Tuple;

/// The `MODEL.RPN` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RpnConfig {
    /// Sides of the anchors, in pixels of the network's input; with a pyramid an item for each level.
    pub anchor_sizes: Tuple<AnchorSizes>,
    /// Stride of the feature map, with a pyramid of each level.
    pub anchor_stride: Tuple<i64>,
    /// Height to width of the anchors.
    pub aspect_ratios: Tuple<f64>,
    /// Anchors an image in the loss.
    pub batch_size_per_image: i64,
    /// An anchor whose best IoU is below it is negative.
    pub bg_iou_threshold: f64,
    /// An anchor whose best IoU is at least this is positive.
    pub fg_iou_threshold: f64,
    /// In training, keep the best proposals of the batch together instead of each image's.
    pub fpn_post_nms_per_batch: bool,
    /// Proposals kept of all levels together, in testing.
    pub fpn_post_nms_top_n_test: i64,
    /// Proposals kept of all levels together, in training.
    pub fpn_post_nms_top_n_train: i64,
    /// Proposals with a shorter side are removed, in pixels.
    pub min_size: i64,
    /// IoU of non-maximum suppression.
    pub nms_thresh: f64,
    /// Largest share of positive anchors in the loss.
    pub positive_fraction: f64,
    /// Proposals kept after suppression (of each level), in testing.
    pub post_nms_top_n_test: i64,
    /// Proposals kept after suppression (of each level), in training.
    pub post_nms_top_n_train: i64,
    /// Proposals kept before suppression (of each level), in testing.
    pub pre_nms_top_n_test: i64,
    /// Proposals kept before suppression (of each level), in training.
    pub pre_nms_top_n_train: i64,
    /// The head's name in the registry.
    pub rpn_head: String,
    /// Anchors may leave the image by so many pixels in training; below 0 without limit.
    pub straddle_thresh: i64,
    /// Proposals from all levels of a pyramid.
    pub use_fpn: bool,
}

impl Default for RpnConfig {
    fn default() -> Self {
        Self {
            anchor_sizes: Tuple([32, 64, 128, 256, 512].map(AnchorSizes::Int).to_vec()),
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
/// The `MODEL.RETINANET` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct RetinaNetConfig {
    /// Sides of the anchors of each level, in pixels.
    pub anchor_sizes: Tuple<AnchorSizes>,
    /// Stride of each level.
    pub anchor_strides: Tuple<i64>,
    /// Height to width of the anchors.
    pub aspect_ratios: Tuple<f64>,
    /// Where the smooth L1 loss of boxes turns linear.
    pub bbox_reg_beta: f64,
    /// Weight of boxes in the loss: it is divided by this.
    pub bbox_reg_weight: f64,
    /// An anchor whose best IoU is below it is negative.
    pub bg_iou_threshold: f64,
    /// An anchor whose best IoU is at least this is positive.
    pub fg_iou_threshold: f64,
    /// Least score of a candidate in testing.
    pub inference_th: f64,
    /// Alpha of the focal loss.
    pub loss_alpha: f64,
    /// Gamma of the focal loss.
    pub loss_gamma: f64,
    /// IoU of non-maximum suppression.
    pub nms_th: f64,
    /// Number of classes, the background included.
    pub num_classes: i64,
    /// Convolutions before the last one, for classes and for boxes.
    pub num_convs: i64,
    /// Base of the anchors' scales.
    pub octave: f64,
    /// Candidates kept of each level before suppression.
    pub pre_nms_top_n: i64,
    /// Probability of an object that training starts from.
    pub prior_prob: f64,
    /// Number of scales.
    pub scales_per_octave: i64,
    /// Anchors may leave the image by so many pixels in training; below 0 without limit.
    pub straddle_thresh: i64,
    /// Make the level P6 from C5 instead of P5.
    pub use_c5: bool,
}

impl Default for RetinaNetConfig {
    fn default() -> Self {
        Self {
            anchor_sizes: Tuple([32, 64, 128, 256, 512].map(AnchorSizes::Int).to_vec()),
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
