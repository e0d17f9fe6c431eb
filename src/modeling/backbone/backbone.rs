//! Bodies and pyramids put together, under the names of `MODEL.BACKBONE.CONV_BODY` (`modeling/backbone/backbone.py` and
//! the fork's `res2net_builder.py`).

use anyhow::{ensure, Result};
use tch::Tensor;

use super::fbnet;
use super::fpn::{Fpn, FpnConfig, LastLevelP6P7, TopBlocks};
use super::resnet::{BlockFamily, ResNet};
use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::make_layers::GroupNormSettings;
use crate::modeling::registry::{Backbone, BackboneBuilder, ModelRegistries};

/// A body alone: C4 and C5.
pub struct BodyBackbone {
    body: ResNet,
    out_channels: i64,
}

impl BodyBackbone {
    /// Parameters lie below `path.body`.
    ///
    /// # Errors
    /// A name is not known or keys contradict each other; the message names them.
    pub fn new(cfg: &Config, path: &ParamPath, family: BlockFamily) -> Result<Self> {
        let body = ResNet::new(cfg, &path.sub("body"), family)?;
        let out_channels = cfg.model.resnets.backbone_out_channels;
        ensure!(
            body.out_channels() == [out_channels],
            "MODEL.RESNETS.BACKBONE_OUT_CHANNELS is {out_channels}, but {} with RES2_OUT_CHANNELS {} gives {:?} channels",
            cfg.model.backbone.conv_body,
            cfg.model.resnets.res2_out_channels,
            body.out_channels()
        );
        Ok(Self { body, out_channels })
    }
}

impl Backbone for BodyBackbone {
    fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        self.body.forward(x, train)
    }

    fn out_channels(&self) -> i64 {
        self.out_channels
    }
}

/// A body and a pyramid over its maps.
pub struct FpnBackbone {
    body: ResNet,
    fpn: Fpn,
    out_channels: i64,
}

impl FpnBackbone {
    /// C2 to C5 and a pooled P6. Parameters lie below `path.body` and `path.fpn`.
    ///
    /// # Errors
    /// A name is not known or keys contradict each other; the message names them.
    pub fn new(cfg: &Config, path: &ParamPath, family: BlockFamily) -> Result<Self> {
        Self::with_top(cfg, path, family, false)
    }

    /// C3 to C5, P6 and P7, for RetinaNet. Parameters lie below `path.body` and `path.fpn`.
    ///
    /// # Errors
    /// A name is not known or keys contradict each other; the message names them.
    pub fn retinanet(cfg: &Config, path: &ParamPath, family: BlockFamily) -> Result<Self> {
        Self::with_top(cfg, path, family, true)
    }

    fn with_top(cfg: &Config, path: &ParamPath, family: BlockFamily, retinanet: bool) -> Result<Self> {
        let body = ResNet::new(cfg, &path.sub("body"), family)?;
        let out_channels = cfg.model.resnets.backbone_out_channels;
        let mut in_channels = body.out_channels().to_vec();
        let c5 = in_channels[in_channels.len() - 1];
        if retinanet {
            in_channels[0] = 0;
        }
        let config =
            FpnConfig { group_norm: GroupNormSettings::when(cfg.model.fpn.use_gn, cfg), relu: cfg.model.fpn.use_relu };
        let fpn = Fpn::new(&path.sub("fpn"), &in_channels, out_channels, config, |top| {
            if retinanet {
                let p6_in = if cfg.model.retinanet.use_c5 { c5 } else { out_channels };
                TopBlocks::LastLevelP6P7(LastLevelP6P7::new(top, p6_in, out_channels))
            } else {
                TopBlocks::LastLevelMaxPool
            }
        })?;
        Ok(Self { body, fpn, out_channels })
    }
}

impl Backbone for FpnBackbone {
    fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        self.fpn.forward(&self.body.forward(x, train), train)
    }

    fn out_channels(&self) -> i64 {
        self.out_channels
    }
}

fn resnet(cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(BodyBackbone::new(cfg, path, BlockFamily::ResNet)?))
}

fn resnet_fpn(cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(FpnBackbone::new(cfg, path, BlockFamily::ResNet)?))
}

fn resnet_retinanet(cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(FpnBackbone::retinanet(cfg, path, BlockFamily::ResNet)?))
}

fn res2net(cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(BodyBackbone::new(cfg, path, BlockFamily::Res2Net)?))
}

fn res2net_fpn(cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(FpnBackbone::new(cfg, path, BlockFamily::Res2Net)?))
}

fn res2net_retinanet(cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(FpnBackbone::retinanet(cfg, path, BlockFamily::Res2Net)?))
}

/// Adds the backbones of this crate.
pub fn register(registries: &mut ModelRegistries) {
    let entries: [(&str, BackboneBuilder); 18] = [
        ("R-50-C4", resnet),
        ("R-50-C5", resnet),
        ("R-101-C4", resnet),
        ("R-101-C5", resnet),
        ("R-50-FPN", resnet_fpn),
        ("R-101-FPN", resnet_fpn),
        ("R-152-FPN", resnet_fpn),
        ("R-50-FPN-RETINANET", resnet_retinanet),
        ("R-101-FPN-RETINANET", resnet_retinanet),
        ("R2-50-C4", res2net),
        ("R2-50-C5", res2net),
        ("R2-101-C4", res2net),
        ("R2-101-C5", res2net),
        ("R2-50-FPN", res2net_fpn),
        ("R2-101-FPN", res2net_fpn),
        ("R2-152-FPN", res2net_fpn),
        ("R2-50-FPN-RETINANET", res2net_retinanet),
        ("R2-101-FPN-RETINANET", res2net_retinanet),
    ];
    registries.backbones.built_in(entries);
    fbnet::register(registries);
}

/// The backbone that `MODEL.BACKBONE.CONV_BODY` names, its parameters below `path`.
///
/// # Errors
/// The name is not known, or the keys contradict each other.
pub fn build_backbone(cfg: &Config, path: &ParamPath, registries: &ModelRegistries) -> Result<Box<dyn Backbone>> {
    let build = registries.backbones.get(&cfg.model.backbone.conv_body)?;
    build(cfg, path)
}
