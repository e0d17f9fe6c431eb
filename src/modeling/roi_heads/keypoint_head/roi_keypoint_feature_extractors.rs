//! What the keypoint head sees of a region.

use std::rc::Rc;

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, Init, ParamPath};
use crate::modeling::poolers::{make_pooler, Pooler, RoiHead};
use crate::modeling::registry::{FeatureMaps, ModelRegistries, RoiFeatureExtractor};
use crate::structures::BoxList;

/// A chain of 3×3 convolutions (`KeypointRCNNFeatureExtractor`).
struct KeypointRcnnFeatureExtractor {
    pooler: Pooler,
    blocks: Vec<ConvNorm>,
    out_channels: i64,
}

impl RoiFeatureExtractor for KeypointRcnnFeatureExtractor {
    fn forward(&self, features: &[Tensor], proposals: &[BoxList], train: bool) -> Result<Tensor> {
        let pooled = self.pooler.forward(features, proposals)?;
        Ok(self.blocks.iter().fold(pooled, |x, block| block.forward(&x, train)))
    }

    fn out_channels(&self) -> i64 {
        self.out_channels
    }
}

fn build_keypoint_rcnn(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
    let head = &cfg.model.roi_keypoint_head;
    let pooler = make_pooler(cfg, RoiHead::Keypoint, maps)?;
    let config = ConvConfig {
        padding: 1,
        weight_init: Init::KaimingNormalFanOut,
        bias_init: Some(Init::Const(0.0)),
        ..ConvConfig::default()
    };
    let mut channels = maps.channels;
    let mut blocks = Vec::with_capacity(head.conv_layers.len());
    for (i, out_channels) in head.conv_layers.iter().enumerate() {
        let conv = Conv2d::new(&path.sub(format!("conv_fcn{}", i + 1)), channels, *out_channels, 3, config);
        blocks.push(ConvNorm::new(conv, None, true));
        channels = *out_channels;
    }
    Ok(Rc::new(KeypointRcnnFeatureExtractor { pooler, blocks, out_channels: channels }))
}

/// Adds the built-in keypoint feature extractors.
pub fn register(registries: &mut ModelRegistries) {
    registries.keypoint_feature_extractors.built_in([("KeypointRCNNFeatureExtractor", build_keypoint_rcnn)]);
}
