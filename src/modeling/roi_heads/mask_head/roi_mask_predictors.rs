//! From the features of regions to mask logits.

use anyhow::{ensure, Result};
use tch::Tensor;

use crate::config::Config;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, ConvTranspose2d, Init, ParamPath};
use crate::modeling::registry::{ModelRegistries, RoiMapPredictor};

/// As Caffe2's MSRAFill.
fn msra(stride: i64) -> ConvConfig {
    ConvConfig {
        stride,
        weight_init: Init::KaimingNormalFanOut,
        bias_init: Some(Init::Const(0.0)),
        ..ConvConfig::default()
    }
}

/// A transposed convolution that doubles the resolution, then one logit per class (`MaskRCNNC4Predictor`).
struct MaskRcnnC4Predictor {
    conv5_mask: ConvTranspose2d,
    mask_fcn_logits: ConvNorm,
}

impl RoiMapPredictor for MaskRcnnC4Predictor {
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.mask_fcn_logits.forward(&self.conv5_mask.forward_then(x, true), train)
    }
}

/// One logit per class at the resolution of the features (`MaskRCNNConv1x1Predictor`).
struct MaskRcnnConv1x1Predictor {
    mask_fcn_logits: ConvNorm,
}

impl RoiMapPredictor for MaskRcnnConv1x1Predictor {
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.mask_fcn_logits.forward(x, train)
    }
}

fn build_c4(cfg: &Config, path: &ParamPath, in_channels: i64) -> Result<Box<dyn RoiMapPredictor>> {
    let layers = &cfg.model.roi_mask_head.conv_layers;
    ensure!(!layers.is_empty(), "MODEL.ROI_MASK_HEAD.CONV_LAYERS must not be empty: MaskRCNNC4Predictor uses the last");
    let hidden = layers[layers.len() - 1];
    Ok(Box::new(MaskRcnnC4Predictor {
        conv5_mask: ConvTranspose2d::new(&path.sub("conv5_mask"), in_channels, hidden, 2, msra(2)),
        mask_fcn_logits: logits(cfg, path, hidden),
    }))
}

fn build_conv1x1(cfg: &Config, path: &ParamPath, in_channels: i64) -> Result<Box<dyn RoiMapPredictor>> {
    Ok(Box::new(MaskRcnnConv1x1Predictor { mask_fcn_logits: logits(cfg, path, in_channels) }))
}

fn logits(cfg: &Config, path: &ParamPath, in_channels: i64) -> ConvNorm {
    let path = path.sub("mask_fcn_logits");
    ConvNorm::new(Conv2d::new(&path, in_channels, cfg.model.roi_box_head.num_classes, 1, msra(1)), None, false)
}

/// Adds the built-in mask predictors.
pub fn register(registries: &mut ModelRegistries) {
    registries
        .mask_predictors
        .built_in([("MaskRCNNC4Predictor", build_c4), ("MaskRCNNConv1x1Predictor", build_conv1x1)]);
}
