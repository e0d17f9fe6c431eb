//! From the features of regions to heat maps of keypoints.

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::layers::{interpolate, ConvConfig, ConvTranspose2d, Init, InterpolateMode, ParamPath, Size};
use crate::modeling::registry::{ModelRegistries, RoiMapPredictor};

/// A transposed convolution and a bilinear resize, which double the resolution each (`KeypointRCNNPredictor`).
struct KeypointRcnnPredictor {
    kps_score_lowres: ConvTranspose2d,
}

impl RoiMapPredictor for KeypointRcnnPredictor {
    fn forward(&self, x: &Tensor, _train: bool) -> Tensor {
        let low = self.kps_score_lowres.forward(x);
        interpolate(&low, Size::Scale(2.0, 2.0), InterpolateMode::Bilinear { align_corners: false })
    }
}

fn build_keypoint_rcnn(cfg: &Config, path: &ParamPath, in_channels: i64) -> Result<Box<dyn RoiMapPredictor>> {
    let config = ConvConfig {
        stride: 2,
        padding: 1,
        weight_init: Init::KaimingNormalFanOut,
        bias_init: Some(Init::Const(0.0)),
        ..ConvConfig::default()
    };
    let keypoints = cfg.model.roi_keypoint_head.num_classes;
    let kps_score_lowres = ConvTranspose2d::new(&path.sub("kps_score_lowres"), in_channels, keypoints, 4, config);
    Ok(Box::new(KeypointRcnnPredictor { kps_score_lowres }))
}

/// Adds the built-in keypoint predictors.
pub fn register(registries: &mut ModelRegistries) {
    registries.keypoint_predictors.built_in([("KeypointRCNNPredictor", build_keypoint_rcnn)]);
}
