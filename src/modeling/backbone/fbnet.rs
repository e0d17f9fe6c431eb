//! FBNet models: body, RPN head and region heads (`modeling/backbone/fbnet.py` of upstream).

use std::rc::Rc;

use anyhow::{ensure, Context, Result};
use tch::Tensor;

use super::fbnet_builder::{bn_type, Blocks, FbNetBuilder};
use super::fbnet_modeldef::{BlockDef, Part};
use crate::config::Config;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, Init, ParamPath};
use crate::modeling::poolers::{make_pooler, Pooler, RoiHead};
use crate::modeling::registry::{Backbone, FeatureMaps, ModelRegistries, RoiFeatureExtractor, RpnHead};
use crate::structures::BoxList;

/// The first convolution and the stages of the body; one map.
pub struct FbNetTrunk {
    first: ConvNorm,
    stages: Blocks,
    maps: FeatureMaps,
}

/// How many times smaller than the image the map is that these blocks end with.
fn stride_of(first_stride: i64, blocks: &[BlockDef]) -> i64 {
    // A kernel of 1 has no depthwise convolution, which would have the stride.
    let down = |block: &BlockDef| if block.op == "ir_k1" { 1 } else { block.stride.max(1) };
    let up = |block: &BlockDef| (-block.stride).max(1);
    first_stride * blocks.iter().map(down).product::<i64>() / blocks.iter().map(up).product::<i64>()
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
        let maps = FeatureMaps { channels: builder.last_depth, strides: vec![stride_of(arch.first[1], &trunk)] };
        Ok(Self { first, stages, maps })
    }
}

impl Backbone for FbNetTrunk {
    fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        vec![self.stages.forward(&self.first.forward(x, train), train)]
    }

    fn feature_maps(&self) -> &FeatureMaps {
        &self.maps
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

/// FBNet blocks and perhaps a last convolution, applied to regions.
pub struct FbNetRoiHead {
    pooler: Pooler,
    blocks: Blocks,
    last: Option<ConvNorm>,
    out_channels: i64,
}

/// The keys that one head reads.
struct RoiHeadKeys<'a> {
    head: RoiHead,
    part: Part,
    /// Positions in the stages of the part; empty is all.
    blocks: &'a [i64],
    blocks_key: &'a str,
    /// The stride of the first block, if not 0.
    stride: i64,
    stride_key: &'a str,
    last_scale: f64,
}

impl FbNetRoiHead {
    /// Parameters lie below `path.head.blocks` and `path.head.last`.
    fn new(cfg: &Config, path: &ParamPath, maps: &FeatureMaps, keys: RoiHeadKeys) -> Result<Self> {
        let (mut builder, arch) = FbNetBuilder::new(cfg, maps.channels)?;
        let RoiHeadKeys { head, part, blocks, blocks_key, stride, stride_key, last_scale } = keys;
        let pooler = make_pooler(cfg, head, maps)?;
        let stages = arch.stages_of(part).or_else(|| arch.stages_of(Part::Head));
        if stages.is_none() {
            let name = &cfg.model.fbnet.arch;
            log::warn!("the FBNet architecture {name:?} has no stages for the {part:?} head: it uses all of them");
        }
        let positions = blocks
            .iter()
            .map(|&at| usize::try_from(at).with_context(|| format!("MODEL.FBNET.{blocks_key} has {at}")))
            .collect::<Result<Vec<usize>>>()?;
        let mut chosen = arch.select(stages, &positions);
        ensure!((0..=2).contains(&stride), "MODEL.FBNET.{stride_key} is {stride}; it must be 0, 1 or 2");
        if stride != 0 {
            chosen.first_mut().with_context(|| format!("MODEL.FBNET.{blocks_key} leaves no block"))?.stride = stride;
        }
        let path = path.sub("head");
        let blocks = builder.add_blocks(&path.sub("blocks"), &chosen)?;
        let last = builder.add_last(&path.sub("last"), arch.last.0, last_scale)?;
        Ok(Self { pooler, blocks, last, out_channels: builder.last_depth })
    }
}

impl RoiFeatureExtractor for FbNetRoiHead {
    fn forward(&self, features: &[Tensor], proposals: &[BoxList], train: bool) -> Result<Tensor> {
        let x = self.pooler.forward(features, proposals)?;
        let x = self.blocks.forward(&x, train);
        Ok(match &self.last {
            Some(last) => last.forward(&x, train),
            None => x,
        })
    }

    fn out_channels(&self) -> i64 {
        self.out_channels
    }
}

/// Adds the parts of FBNet models, under the original's names.
pub fn register(registries: &mut ModelRegistries) {
    registries.backbones.built_in([("FBNet", backbone)]);
    registries.rpn_heads.built_in([("FBNet.rpn_head", rpn_head)]);
    registries.box_feature_extractors.built_in([("FBNet.roi_head", box_head)]);
    registries.mask_feature_extractors.built_in([("FBNet.roi_head_mask", mask_head)]);
    registries.keypoint_feature_extractors.built_in([("FBNet.roi_head_keypoints", keypoint_head)]);
}

fn backbone(cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(FbNetTrunk::new(cfg, path)?))
}

fn rpn_head(cfg: &Config, path: &ParamPath, in_channels: i64, num_anchors: i64) -> Result<Box<dyn RpnHead>> {
    Ok(Box::new(FbNetRpnHead::new(cfg, path, in_channels, num_anchors)?))
}

fn box_head(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
    let fbnet = &cfg.model.fbnet;
    let keys = RoiHeadKeys {
        head: RoiHead::Box,
        part: Part::Bbox,
        blocks: &fbnet.det_head_blocks,
        blocks_key: "DET_HEAD_BLOCKS",
        stride: fbnet.det_head_stride,
        stride_key: "DET_HEAD_STRIDE",
        last_scale: fbnet.det_head_last_scale,
    };
    Ok(Rc::new(FbNetRoiHead::new(cfg, path, maps, keys)?))
}

fn mask_head(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
    let fbnet = &cfg.model.fbnet;
    let keys = RoiHeadKeys {
        head: RoiHead::Mask,
        part: Part::Mask,
        blocks: &fbnet.mask_head_blocks,
        blocks_key: "MASK_HEAD_BLOCKS",
        stride: fbnet.mask_head_stride,
        stride_key: "MASK_HEAD_STRIDE",
        last_scale: fbnet.mask_head_last_scale,
    };
    Ok(Rc::new(FbNetRoiHead::new(cfg, path, maps, keys)?))
}

fn keypoint_head(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<Rc<dyn RoiFeatureExtractor>> {
    let fbnet = &cfg.model.fbnet;
    let keys = RoiHeadKeys {
        head: RoiHead::Keypoint,
        part: Part::Kpts,
        blocks: &fbnet.kpts_head_blocks,
        blocks_key: "KPTS_HEAD_BLOCKS",
        stride: fbnet.kpts_head_stride,
        stride_key: "KPTS_HEAD_STRIDE",
        last_scale: fbnet.kpts_head_last_scale,
    };
    Ok(Rc::new(FbNetRoiHead::new(cfg, path, maps, keys)?))
}
