//! FBNet models: body, RPN head and region heads (`modeling/backbone/fbnet.py` of upstream).

use anyhow::{ensure, Context, Result};
use tch::Tensor;

use super::fbnet_builder::{bn_type, Blocks, FbNetBuilder};
use super::fbnet_modeldef::Part;
use crate::config::Config;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, Init, ParamPath};
use crate::modeling::registry::{Backbone, ModelRegistries, RpnHead};

/// The first convolution and the stages of the body; one map.
pub struct FbNetTrunk {
    first: ConvNorm,
    stages: Blocks,
    out_channels: i64,
}

impl FbNetTrunk {
    /// Parameters lie below `path.body`.
    ///
    /// # Errors
    /// `MODEL.FBNET` contradicts itself.
    pub fn new(cfg: &Config, path: &ParamPath) -> Result<Self> {
        let (mut builder, arch) = FbNetBuilder::new(cfg, 3)?;
        let path = path.sub("body");
        let first = builder.add_first(&path.sub("first"), &arch.first)?;
        // Without stages of its own, the body has all but the last.
        let all_but_last: Vec<usize> = (0..arch.num_stages().saturating_sub(1)).collect();
        let trunk = arch.select(Some(arch.stages_of(Part::Backbone).unwrap_or(&all_but_last)), &[]);
        let stages = builder.add_blocks(&path.sub("stages"), &trunk)?;
        Ok(Self { first, stages, out_channels: builder.last_depth })
    }
}

impl Backbone for FbNetTrunk {
    fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        vec![self.stages.forward(&self.first.forward(x, train), train)]
    }

    fn out_channels(&self) -> i64 {
        self.out_channels
    }
}

/// FBNet blocks, then objectness and box codes.
pub struct FbNetRpnHead {
    head: Blocks,
    cls_logits: Conv2d,
    bbox_pred: Conv2d,
}

impl FbNetRpnHead {
    /// Parameters lie below `path.0.head` (blocks) and `path.1`.
    ///
    /// # Errors
    /// The architecture has no RPN stages, or `MODEL.FBNET` contradicts itself.
    pub fn new(cfg: &Config, path: &ParamPath, in_channels: i64, num_anchors: i64) -> Result<Self> {
        let fbnet = &cfg.model.fbnet;
        let (mut builder, arch) = FbNetBuilder::new(cfg, in_channels)?;
        if !fbnet.rpn_bn_type.is_empty() {
            builder.style.bn = bn_type("MODEL.FBNET.RPN_BN_TYPE", &fbnet.rpn_bn_type, cfg)?;
        }
        let stages = arch.stages_of(Part::Rpn).with_context(|| {
            format!("the FBNet architecture {:?} has no stages for the RPN; choose another RPN_HEAD", fbnet.arch)
        })?;
        let mut blocks = arch.select(Some(stages), &[]);
        if fbnet.rpn_head_blocks > 0 {
            let (last, count) = (fbnet.rpn_head_blocks as usize, blocks.len());
            ensure!(
                last <= count,
                "MODEL.FBNET.RPN_HEAD_BLOCKS is {last}, but the architecture {:?} has {count} blocks for the RPN",
                fbnet.arch
            );
            blocks.retain(|block| (count - last..count).contains(&block.block_idx));
        }
        let head = builder.add_blocks(&path.sub("0.head"), &blocks)?;

        let config = ConvConfig {
            weight_init: Init::Normal { mean: 0.0, std: 0.01 },
            bias_init: Some(Init::Const(0.0)),
            ..ConvConfig::default()
        };
        let (path, depth) = (path.sub(1), builder.last_depth);
        let cls_logits = Conv2d::new(&path.sub("cls_logits"), depth, num_anchors, 1, config);
        let bbox_pred = Conv2d::new(&path.sub("bbox_pred"), depth, num_anchors * 4, 1, config);
        Ok(Self { head, cls_logits, bbox_pred })
    }
}

impl RpnHead for FbNetRpnHead {
    fn forward(&self, features: &[Tensor], train: bool) -> (Vec<Tensor>, Vec<Tensor>) {
        let features: Vec<Tensor> = features.iter().map(|x| self.head.forward(x, train)).collect();
        let logits = features.iter().map(|x| self.cls_logits.forward(x)).collect();
        let bbox_reg = features.iter().map(|x| self.bbox_pred.forward(x)).collect();
        (logits, bbox_reg)
    }
}

/// Adds the parts of FBNet models, under the original's names.
pub fn register(registries: &mut ModelRegistries) {
    registries.backbones.built_in([("FBNet", backbone as _)]);
    registries.rpn_heads.built_in([("FBNet.rpn_head", rpn_head as _)]);
}

fn backbone(cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(FbNetTrunk::new(cfg, path)?))
}

fn rpn_head(cfg: &Config, path: &ParamPath, in_channels: i64, num_anchors: i64) -> Result<Box<dyn RpnHead>> {
    Ok(Box::new(FbNetRpnHead::new(cfg, path, in_channels, num_anchors)?))
}
