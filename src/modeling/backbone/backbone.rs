//! Bodies and pyramids put together, under the names of `MODEL.BACKBONE.CONV_BODY` (`modeling/backbone/backbone.py` and
//! the fork's `res2net_builder.py`).

use anyhow::{ensure, Result};
use tch::Tensor;

use super::blocks::BlockFamily;
use super::fbnet;
use super::fpn::{Fpn, FpnConfig, LastLevelP6P7, TopBlocks};
use super::resnet::ResNet;
use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::make_layers::GroupNormSettings;
use crate::modeling::registry::{Backbone, FeatureMaps, ModelRegistries};

/// A body alone: C4 and C5.
pub struct BodyBackbone {
    body: ResNet,
    maps: FeatureMaps,
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
        let maps = FeatureMaps { channels: out_channels, strides: body.strides().to_vec() };
        Ok(Self { body, maps })
    }
}

impl Backbone for BodyBackbone {
    fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        self.body.forward(x, train)
    }

    fn feature_maps(&self) -> &FeatureMaps {
        &self.maps
    }
}

/// A body and a pyramid over its maps.
pub struct FpnBackbone {
    body: ResNet,
    fpn: Fpn,
    maps: FeatureMaps,
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
        let mut strides = body.strides().to_vec();
        if retinanet {
            in_channels[0] = 0;
            strides.remove(0);
        }
        let config =
            FpnConfig { group_norm: GroupNormSettings::when(cfg.model.fpn.use_gn, cfg), relu: cfg.model.fpn.use_relu };
        let fpn = Fpn::new(&path.sub("fpn"), &in_channels, out_channels, config, |top| {
            if retinanet {
                let p6_in = if cfg.model.retinanet.use_c5 { c5 } else { out_channels };
                TopBlocks::LastLevelP6P7(Box::new(LastLevelP6P7::new(top, p6_in, out_channels)))
            } else {
                TopBlocks::LastLevelMaxPool
            }
        })?;
        for _ in 0..fpn.levels_on_top() {
            strides.push(2 * strides[strides.len() - 1]);
        }
        Ok(Self { body, fpn, maps: FeatureMaps { channels: out_channels, strides } })
    }
}

impl Backbone for FpnBackbone {
    fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        self.fpn.forward(&self.body.forward(x, train), train)
    }

    fn feature_maps(&self) -> &FeatureMaps {
        &self.maps
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
    registries.backbones.built_in([
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
    ]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Parameters;
    use crate::modeling::backbone::resnet::{ResNetHead, ResNetHeadConfig};
    use crate::utils::testing::generator;
    use tch::{Device, Kind};

    fn narrow(conv_body: &str, trans_func: &str) -> Config {
        let mut cfg = Config::default();
        let resnets = &mut cfg.model.resnets;
        resnets.stem_out_channels = 4;
        resnets.width_per_group = 2;
        resnets.res2_out_channels = 8;
        resnets.backbone_out_channels = 32;
        resnets.trans_func = trans_func.into();
        cfg.model.backbone.conv_body = conv_body.into();
        cfg
    }

    fn build(cfg: &Config) -> Result<Box<dyn Backbone>> {
        build_backbone(cfg, &Parameters::uninitialised(Device::Cpu).root().sub("backbone"), &ModelRegistries::default())
    }

    fn message(cfg: &Config) -> String {
        format!("{:#}", build(cfg).err().expect("this configuration contradicts itself"))
    }

    #[test]
    fn every_registered_body_gives_the_maps_it_promises() {
        let registries = ModelRegistries::default();
        for name in registries.backbones.names() {
            let trans_func =
                if name.starts_with("R2") { "Bottle2neckWithFixedBatchNorm" } else { "BottleneckWithFixedBatchNorm" };
            let mut cfg = narrow(name, trans_func);
            if name.ends_with("C5") {
                cfg.model.resnets.backbone_out_channels = 64;
            }
            let backbone = build(&cfg).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let promised = backbone.feature_maps();
            let image = Tensor::zeros([1, 3, 128, 256], (Kind::Float, Device::Cpu));
            let maps: Vec<Vec<i64>> = backbone.forward(&image, false).iter().map(Tensor::size).collect();
            let of_stride = |stride: &i64| vec![1, promised.channels, 128 / stride, 256 / stride];
            assert_eq!(maps, promised.strides.iter().map(of_stride).collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        assert!(message(&narrow("R-34-FPN", "BottleneckWithGN")).contains("R-50-FPN-RETINANET"));
        // The default TRANS_FUNC is no Res2Net block.
        let of_resnet = message(&narrow("R2-50-FPN", "BottleneckWithFixedBatchNorm"));
        assert!(of_resnet.contains("Bottle2neckWithFixedBatchNorm, Bottle2neckWithGN"), "{of_resnet}");
        let mut cfg = narrow("R-50-C4", "BottleneckWithFixedBatchNorm");
        cfg.model.resnets.stem_func = "Stem".into();
        assert!(message(&cfg).contains("StemWithFixedBatchNorm, StemWithGN"));
    }

    #[test]
    fn contradicting_keys_are_named() {
        let good = narrow("R-50-C4", "BottleneckWithFixedBatchNorm");
        let with = |change: &dyn Fn(&mut Config)| {
            let mut cfg = good.clone();
            change(&mut cfg);
            message(&cfg)
        };
        let out = with(&|cfg| cfg.model.resnets.backbone_out_channels = 256);
        assert!(out.contains("BACKBONE_OUT_CHANNELS is 256") && out.contains("[32] channels"), "{out}");
        let dcn = with(&|cfg| cfg.model.resnets.stage_with_dcn.0.truncate(2));
        assert!(dcn.contains("STAGE_WITH_DCN has 2 entries"), "{dcn}");
        assert!(with(&|cfg| cfg.model.resnets.width_per_group = 0).contains("WIDTH_PER_GROUP is 0"));
        assert!(with(&|cfg| cfg.model.resnets.stem_out_channels = -4).contains("STEM_OUT_CHANNELS is -4"));
        let mut fbnet = narrow("FBNet", "BottleneckWithFixedBatchNorm");
        fbnet.model.fbnet.scale_factor = 0.01;
        assert!(message(&fbnet).contains("SCALE_FACTOR"), "{}", message(&fbnet));
        assert!(with(&|cfg| cfg.model.backbone.freeze_conv_body_at = 5).contains("FREEZE_CONV_BODY_AT is 5"));
        let gn = with(&|cfg| cfg.model.resnets.trans_func = "BottleneckWithGN".into());
        assert!(gn.contains("NUM_GROUPS 32 does not divide"), "{gn}");
        let mut res2net = narrow("R2-50-FPN", "Bottle2neckWithFixedBatchNorm");
        res2net.model.resnets.stage_with_dcn.0[1] = true;
        assert!(message(&res2net).contains("Res2Net blocks have no deformable convolution"));
    }

    #[test]
    fn deformable_stages_take_several_groups() {
        let _generator = generator();
        for modulated in [false, true] {
            let mut cfg = narrow("R-50-FPN", "BottleneckWithFixedBatchNorm");
            let resnets = &mut cfg.model.resnets;
            resnets.stage_with_dcn.0 = vec![false, true, true, true];
            resnets.with_modulated_dcn = modulated;
            resnets.deformable_groups = 2;
            let parameters = Parameters::new(Device::Cpu);
            let path = parameters.root().sub("backbone");
            let backbone = build_backbone(&cfg, &path, &ModelRegistries::default()).unwrap();
            let offset = parameters.get("backbone.body.layer2.0.conv2.offset.weight").unwrap();
            assert_eq!(offset.size(), [if modulated { 54 } else { 36 }, 4, 3, 3]);
            // Positive weights, so that no ReLU stands in the way of the gradient.
            let no_grad = tch::no_grad_guard();
            for (_, mut weight) in parameters.trainable() {
                let _ = weight.fill_(0.1);
            }
            drop(no_grad);
            let image = Tensor::linspace(0.0, 1.0, 3 * 64 * 96, (Kind::Float, Device::Cpu)).view([1, 3, 64, 96]);
            let maps = backbone.forward(&image, true);
            maps[0].sum(Kind::Float).backward();
            let grad = parameters.get("backbone.body.layer2.0.conv2.offset.weight").unwrap().grad();
            assert!(grad.abs().sum(Kind::Float).double_value(&[]) > 0.0);

            cfg.model.resnets.deformable_groups = 3;
            assert!(message(&cfg).contains("DEFORMABLE_GROUPS 3 does not divide 4 channels"));
        }
    }

    #[test]
    fn conv5_heads_keep_the_size_when_they_dilate() {
        let _generator = generator();
        for trans_func in ["BottleneckWithFixedBatchNorm", "Bottle2neckWithFixedBatchNorm"] {
            for (dilation, side) in [(1, 7), (2, 14)] {
                for stride_in_1x1 in [true, false] {
                    let mut cfg = narrow("R-50-C4", trans_func);
                    cfg.model.resnets.res5_dilation = dilation;
                    cfg.model.resnets.stride_in_1x1 = stride_in_1x1;
                    let parameters = Parameters::new(Device::Cpu);
                    let head = ResNetHead::new(&parameters.root().sub("head"), ResNetHeadConfig::conv5(&cfg)).unwrap();
                    assert_eq!(head.out_channels(), 64);
                    let x = Tensor::ones([3, 32, 14, 14], (Kind::Float, Device::Cpu));
                    assert_eq!(head.forward(&x, false).size(), [3, 64, side, side], "{trans_func}");
                    let none = Tensor::ones([0, 32, 14, 14], (Kind::Float, Device::Cpu));
                    assert_eq!(head.forward(&none, false).size(), [0, 64, side, side], "{trans_func}");
                }
            }
        }
    }
}
