//! What the box head sees of a region.

use std::rc::Rc;

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, Init, Norm, ParamPath};
use crate::modeling::backbone::resnet::{ResNetHead, ResNetHeadConfig};
use crate::modeling::make_layers::{group_norm, make_fc, Fc, GroupNormSettings};
use crate::modeling::poolers::{make_pooler, Pooler, RoiHead};
use crate::modeling::registry::{FeatureMaps, ModelRegistries, RoiFeatureExtractor};
use crate::structures::BoxList;

/// The fifth stage of the body, applied to each region (`ResNet50Conv5ROIFeatureExtractor`), with the body's blocks:
/// ResNet's or Res2Net's.
pub struct Conv5RoiFeatureExtractor {
    pooler: Pooler,
    head: ResNetHead,
}

impl Conv5RoiFeatureExtractor {
    /// # Errors
    /// An unknown block, or widths, dilations or scales that do not fit.
    pub fn new(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Self> {
        let head = ResNetHead::new(&path.sub("head"), ResNetHeadConfig::conv5(cfg))?;
        Ok(Self { pooler: make_pooler(cfg, RoiHead::Box, maps)?, head })
    }
}

impl RoiFeatureExtractor for Conv5RoiFeatureExtractor {
    fn forward(&self, features: &[Tensor], proposals: &[BoxList], train: bool) -> Result<Tensor> {
        Ok(self.head.forward(&self.pooler.forward(features, proposals)?, train))
    }

    fn out_channels(&self) -> i64 {
        self.head.out_channels()
    }
}

/// Two fully connected layers (`FPN2MLPFeatureExtractor`).
struct Fpn2MlpFeatureExtractor {
    pooler: Pooler,
    fc6: Fc,
    fc7: Fc,
    out_channels: i64,
}

impl Fpn2MlpFeatureExtractor {
    fn new(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Self> {
        let head = &cfg.model.roi_box_head;
        let group_norm = GroupNormSettings::when(head.use_gn, cfg);
        let inputs = maps.channels * head.pooler_resolution * head.pooler_resolution;
        Ok(Self {
            pooler: make_pooler(cfg, RoiHead::Box, maps)?,
            fc6: make_fc(&path.sub("fc6"), inputs, head.mlp_head_dim, group_norm)?,
            fc7: make_fc(&path.sub("fc7"), head.mlp_head_dim, head.mlp_head_dim, group_norm)?,
            out_channels: head.mlp_head_dim,
        })
    }
}

impl RoiFeatureExtractor for Fpn2MlpFeatureExtractor {
    fn forward(&self, features: &[Tensor], proposals: &[BoxList], _train: bool) -> Result<Tensor> {
        let x = self.pooler.forward(features, proposals)?.flatten(1, -1);
        Ok(self.fc7.forward(&self.fc6.forward(&x).relu()).relu())
    }

    fn out_channels(&self) -> i64 {
        self.out_channels
    }
}

/// Some 3×3 convolutions and a fully connected layer (`FPNXconv1fcFeatureExtractor`; Group Normalization, section 4.2).
struct FpnXconv1fcFeatureExtractor {
    pooler: Pooler,
    xconvs: Vec<ConvNorm>,
    fc6: Fc,
    out_channels: i64,
}

impl FpnXconv1fcFeatureExtractor {
    fn new(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Self> {
        let head = &cfg.model.roi_box_head;
        let settings = GroupNormSettings::when(head.use_gn, cfg);
        let config = ConvConfig {
            padding: head.dilation,
            dilation: head.dilation,
            bias: !head.use_gn,
            weight_init: Init::Normal { mean: 0.0, std: 0.01 },
            bias_init: Some(Init::Const(0.0)),
            ..ConvConfig::default()
        };
        // Positions in the original's sequence: convolution, norm if any, ReLU.
        let step = if head.use_gn { 3 } else { 2 };
        let xconvs = (0..head.num_stacked_convs)
            .map(|i| {
                let path = path.sub("xconvs");
                let inputs = if i == 0 { maps.channels } else { head.conv_head_dim };
                let conv = Conv2d::new(&path.sub(i * step), inputs, head.conv_head_dim, 3, config);
                let norm = settings.map(|s| group_norm(&path.sub(i * step + 1), head.conv_head_dim, &s));
                Ok(ConvNorm::new(conv, norm.transpose()?.map(Norm::Group), true))
            })
            .collect::<Result<Vec<_>>>()?;
        let channels = if head.num_stacked_convs > 0 { head.conv_head_dim } else { maps.channels };
        let inputs = channels * head.pooler_resolution * head.pooler_resolution;
        Ok(Self {
            pooler: make_pooler(cfg, RoiHead::Box, maps)?,
            xconvs,
            fc6: make_fc(&path.sub("fc6"), inputs, head.mlp_head_dim, None)?,
            out_channels: head.mlp_head_dim,
        })
    }
}

impl RoiFeatureExtractor for FpnXconv1fcFeatureExtractor {
    fn forward(&self, features: &[Tensor], proposals: &[BoxList], train: bool) -> Result<Tensor> {
        let pooled = self.pooler.forward(features, proposals)?;
        let x = self.xconvs.iter().fold(pooled, |x, conv| conv.forward(&x, train));
        Ok(self.fc6.forward(&x.flatten(1, -1)).relu())
    }

    fn out_channels(&self) -> i64 {
        self.out_channels
    }
}

fn build_conv5(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
    Ok(Rc::new(Conv5RoiFeatureExtractor::new(cfg, path, maps)?))
}

fn build_2mlp(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
    Ok(Rc::new(Fpn2MlpFeatureExtractor::new(cfg, path, maps)?))
}

fn build_xconv1fc(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
    Ok(Rc::new(FpnXconv1fcFeatureExtractor::new(cfg, path, maps)?))
}

/// Adds the built-in box feature extractors.
pub fn register(registries: &mut ModelRegistries) {
    registries.box_feature_extractors.built_in([
        ("ResNet50Conv5ROIFeatureExtractor", build_conv5),
        ("FPN2MLPFeatureExtractor", build_2mlp),
        ("FPNXconv1fcFeatureExtractor", build_xconv1fc),
    ]);
}
