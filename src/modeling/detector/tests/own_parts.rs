//! A backbone, an RPN head and a feature extractor of somebody else's crate, used by their names.

use std::rc::Rc;

use anyhow::Result;
use tch::{Device, Tensor};

use super::{config, image, target, total, C4};
use crate::config::Config;
use crate::layers::{Conv2d, ConvConfig, ParamPath, Parameters};
use crate::modeling::detector::build_detection_model;
use crate::modeling::poolers::{make_pooler, Pooler, RoiHead};
use crate::modeling::registry::{Backbone, FeatureMaps, ModelRegistries, RoiFeatureExtractor, RpnHead};
use crate::structures::{to_image_list, BoxList};
use crate::utils::testing::generator;

/// One convolution of stride 8.
struct Patches {
    conv: Conv2d,
    maps: FeatureMaps,
}

impl Patches {
    fn build(_cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
        let conv = Conv2d::new(&path.sub("patches"), 3, 6, 8, ConvConfig { stride: 8, ..ConvConfig::default() });
        Ok(Box::new(Self { conv, maps: FeatureMaps { channels: 6, strides: vec![8] } }))
    }
}

impl Backbone for Patches {
    fn forward(&self, x: &Tensor, _train: bool) -> Vec<Tensor> {
        vec![self.conv.forward(x).relu()]
    }

    fn feature_maps(&self) -> &FeatureMaps {
        &self.maps
    }
}

/// Two 1×1 convolutions.
struct Pointwise {
    scores: Conv2d,
    codes: Conv2d,
}

impl Pointwise {
    fn build(_cfg: &Config, path: &ParamPath, in_channels: i64, num_anchors: i64) -> Result<Box<dyn RpnHead>> {
        let conv = |name: &str, out| Conv2d::new(&path.sub(name), in_channels, out, 1, ConvConfig::default());
        Ok(Box::new(Self { scores: conv("scores", num_anchors), codes: conv("codes", 4 * num_anchors) }))
    }
}

impl RpnHead for Pointwise {
    fn forward(&self, features: &[Tensor], _train: bool) -> (Vec<Tensor>, Vec<Tensor>) {
        features.iter().map(|x| (self.scores.forward(x), self.codes.forward(x))).unzip()
    }
}

/// The pooled features as they are.
struct Pooled {
    pooler: Pooler,
    channels: i64,
}

impl Pooled {
    fn build(cfg: &Config, _path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
        Ok(Rc::new(Self { pooler: make_pooler(cfg, RoiHead::Box, maps)?, channels: maps.channels }))
    }
}

impl RoiFeatureExtractor for Pooled {
    fn forward(&self, features: &[Tensor], proposals: &[BoxList], _train: bool) -> Result<Tensor> {
        self.pooler.forward(features, proposals)
    }

    fn out_channels(&self) -> i64 {
        self.channels
    }
}

#[test]
fn parts_of_ones_own_are_used_by_their_names() {
    let _generator = generator();
    let mut registries = ModelRegistries::default();
    registries.backbones.register("Patches", Patches::build).unwrap();
    registries.rpn_heads.register("Pointwise", Pointwise::build).unwrap();
    registries.box_feature_extractors.register("Pooled", Pooled::build).unwrap();
    let names = "MODEL.BACKBONE.CONV_BODY Patches MODEL.RPN.RPN_HEAD Pointwise \
        MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR Pooled MODEL.RPN.ANCHOR_STRIDE (8,)";
    let parameters = Parameters::new(Device::Cpu);
    let cfg = config(&[C4, names, "MODEL.ROI_BOX_HEAD.POOLER_SCALES (0.125,)"]);
    let model = build_detection_model(&cfg, &parameters.root(), &registries).unwrap();
    let images = to_image_list(&[image(96, 64)], 0);
    assert_eq!(model.detect(&images).unwrap().len(), 1);
    let losses = model.losses(&images, &[target(&[[8.0, 8.0, 40.0, 40.0]], (96, 64))]).unwrap();
    total(&losses).backward();
    for name in ["backbone.patches.weight", "rpn.head.scores.weight", "rpn.head.codes.weight"] {
        assert!(parameters.get(name).unwrap_or_else(|| panic!("there is no {name}")).grad().defined(), "{name}");
    }

    // What is compared with the maps is what the backbone says of them.
    let cfg = config(&[C4, names]);
    let parameters = Parameters::uninitialised(Device::Cpu);
    let error = build_detection_model(&cfg, &parameters.root(), &registries).err().expect("scales of another stride");
    assert!(format!("{error:#}").contains("\"Patches\" gives one feature map, of stride 8"), "{error:#}");
}
