//! What the mask head sees of a region.

use std::rc::Rc;

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::layers::{ConvNorm, ParamPath};
use crate::modeling::make_layers::{make_conv3x3, Conv3x3, GroupNormSettings};
use crate::modeling::poolers::{make_pooler, Pooler, RoiHead};
use crate::modeling::registry::{FeatureMaps, ModelRegistries, RoiFeatureExtractor};
use crate::modeling::roi_heads::box_head::roi_box_feature_extractors::Conv5RoiFeatureExtractor;
use crate::structures::BoxList;

/// A chain of 3×3 convolutions (`MaskRCNNFPNFeatureExtractor`).
struct MaskRcnnFpnFeatureExtractor {
    pooler: Pooler,
    blocks: Vec<ConvNorm>,
    out_channels: i64,
}

impl MaskRcnnFpnFeatureExtractor {
    fn new(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Self> {
        let head = &cfg.model.roi_mask_head;
        let pooler = make_pooler(cfg, RoiHead::Mask, maps)?;
        let options = Conv3x3 {
            dilation: head.dilation,
            group_norm: GroupNormSettings::when(head.use_gn, cfg),
            ..Conv3x3::default()
        };
        let mut channels = maps.channels;
        let mut blocks = Vec::with_capacity(head.conv_layers.len());
        for (i, out_channels) in head.conv_layers.iter().enumerate() {
            let path = path.sub(format!("mask_fcn{}", i + 1));
            let mut block = make_conv3x3(&path, channels, *out_channels, options)?;
            // The original applies the ReLU outside the module; asked for here, it would change the names.
            block.relu = true;
            blocks.push(block);
            channels = *out_channels;
        }
        Ok(Self { pooler, blocks, out_channels: channels })
    }
}

impl RoiFeatureExtractor for MaskRcnnFpnFeatureExtractor {
    fn forward(&self, features: &[Tensor], proposals: &[BoxList], train: bool) -> Result<Tensor> {
        let pooled = self.pooler.forward(features, proposals)?;
        Ok(self.blocks.iter().fold(pooled, |x, block| block.forward(&x, train)))
    }

    fn out_channels(&self) -> i64 {
        self.out_channels
    }
}

fn build_conv5(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
    Ok(Rc::new(Conv5RoiFeatureExtractor::new(cfg, path, maps)?))
}

fn build_fpn(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
    Ok(Rc::new(MaskRcnnFpnFeatureExtractor::new(cfg, path, maps)?))
}

/// Adds the built-in mask feature extractors.
pub fn register(registries: &mut ModelRegistries) {
    registries
        .mask_feature_extractors
        .built_in([("ResNet50Conv5ROIFeatureExtractor", build_conv5), ("MaskRCNNFPNFeatureExtractor", build_fpn)]);
}
