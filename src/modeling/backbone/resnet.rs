//! ResNet and ResNeXt bodies (He et al. 2015, Xie et al. 2016), as `modeling/backbone/resnet.py` of the original.
//!
//! The container ([`ResNet`]) and the head ([`ResNetHead`]) do not know what their blocks are made of: those of ResNet
//! are in [`super::bottleneck`], those of Res2Net in [`super::res2net`].

use std::ops::Range;

use anyhow::{ensure, Context, Result};
use tch::{Device, Tensor};

use super::blocks::{
    transformation, without_bias, Block, BlockBuilder, BlockConfig, BlockFamily, DeformableSettings, NormKind,
};
use crate::config::registry::unknown_name;
use crate::config::Config;
use crate::ffi;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, ParamPath};
use crate::modeling::make_layers::GroupNormSettings;
use crate::modeling::utils::at_least;

/// One stage of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageSpec {
    /// 1 to 4: the stage is `layer{index}`, and its maps are `2^(index + 1)` times smaller than the image.
    pub index: i64,
    /// Number of residual blocks.
    pub block_count: i64,
    /// Whether the body returns the last map of this stage.
    pub return_features: bool,
}

/// The stages of a body by the name of `MODEL.BACKBONE.CONV_BODY` without its `R-` or `R2-`.
///
/// # Errors
/// There is no body of that name.
pub fn stage_specs(name: &str) -> Result<Vec<StageSpec>> {
    let (depth, rest) = name.split_once('-').unwrap_or((name, ""));
    let blocks = match depth {
        "50" => [3, 4, 6, 3],
        "101" => [3, 4, 23, 3],
        "152" => [3, 8, 36, 3],
        _ => return Err(unknown_name("the depth of a body", depth, ["50", "101", "152"])),
    };
    let (stages, all) = match rest {
        "C4" => (3, false),
        "C5" => (4, false),
        "FPN" | "FPN-RETINANET" => (4, true),
        _ => return Err(unknown_name("the end of a body's name", rest, ["C4", "C5", "FPN", "FPN-RETINANET"])),
    };
    let spec =
        |i: usize| StageSpec { index: i as i64 + 1, block_count: blocks[i], return_features: all || i + 1 == stages };
    Ok((0..stages).map(spec).collect())
}

/// 7×7 convolution of stride 2, norm, ReLU, 3×3 maximum of stride 2.
pub struct Stem {
    conv1: ConvNorm,
}

impl Stem {
    /// # Errors
    /// `MODEL.RESNETS.STEM_FUNC` is not known, or its group norm does not fit the number of channels.
    pub fn new(path: &ParamPath, cfg: &Config) -> Result<Self> {
        let norm = match cfg.model.resnets.stem_func.as_str() {
            "StemWithFixedBatchNorm" => NormKind::FixedBatchNorm,
            "StemWithGN" => NormKind::GroupNorm(cfg.into()),
            other => {
                let known = ["StemWithFixedBatchNorm", "StemWithGN"];
                return Err(unknown_name("MODEL.RESNETS.STEM_FUNC", other, known));
            }
        };
        let out = cfg.model.resnets.stem_out_channels;
        let config = ConvConfig { stride: 2, padding: 3, ..without_bias() };
        let conv1 = Conv2d::new(&path.sub("conv1"), 3, out, 7, config);
        let bn1 = norm.build(&path.sub("bn1"), out)?;
        Ok(Self { conv1: ConvNorm::new(conv1, Some(bn1), true) })
    }

    /// # Shapes
    /// `[N, 3, H, W]` to `[N, stem channels, H / 4, W / 4]`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.conv1.forward(x, train).max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)
    }
}

/// A stage: residual blocks one after the other.
struct Stage {
    blocks: Vec<Box<dyn Block>>,
}

impl Stage {
    /// The first block takes the stride and the change of channels of `first`, the others keep both.
    fn new(path: &ParamPath, block_count: i64, first: BlockConfig, build: BlockBuilder) -> Result<Self> {
        let mut config = first;
        let mut blocks = Vec::new();
        for i in 0..block_count {
            blocks.push(build(&path.sub(i), &config)?);
            config = BlockConfig { stride: 1, in_channels: first.out_channels, ..config };
        }
        Ok(Self { blocks })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.blocks.iter().fold(x.shallow_clone(), |x, block| block.forward(&x, train))
    }
}

/// A stem and three or four stages.
pub struct ResNet {
    stem: Stem,
    /// Each with whether its map is returned.
    stages: Vec<(Stage, bool)>,
    /// How many of the stem and the stages have no gradients.
    frozen: usize,
    out_channels: Vec<i64>,
    strides: Vec<i64>,
}

impl ResNet {
    /// The body that `MODEL.BACKBONE.CONV_BODY` and `MODEL.RESNETS` describe, made of blocks of `family`.
    ///
    /// # Errors
    /// A name is not known or keys contradict each other; the message names them.
    pub fn new(cfg: &Config, path: &ParamPath, family: BlockFamily) -> Result<Self> {
        let conv_body = &cfg.model.backbone.conv_body;
        let prefix = if family == BlockFamily::Res2Net { "R2-" } else { "R-" };
        let specs = stage_specs(conv_body.strip_prefix(prefix).unwrap_or(conv_body))
            .with_context(|| format!("MODEL.BACKBONE.CONV_BODY: {conv_body:?}"))?;
        Self::with_stages(cfg, path, family, &specs)
    }

    /// As [`ResNet::new`], with stages of the caller's choice: consecutive indices from 1.
    ///
    /// # Errors
    /// A name is not known or keys contradict each other; the message names them.
    pub fn with_stages(cfg: &Config, path: &ParamPath, family: BlockFamily, specs: &[StageSpec]) -> Result<Self> {
        let resnets = &cfg.model.resnets;
        let (norm, build) = transformation(&resnets.trans_func, Some(family), cfg.into())?;
        at_least(
            1,
            &[
                ("MODEL.RESNETS.STEM_OUT_CHANNELS", resnets.stem_out_channels),
                ("MODEL.RESNETS.RES2_OUT_CHANNELS", resnets.res2_out_channels),
                ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", resnets.backbone_out_channels),
                ("MODEL.RESNETS.NUM_GROUPS", resnets.num_groups),
                ("MODEL.RESNETS.WIDTH_PER_GROUP", resnets.width_per_group),
                ("MODEL.RESNETS.SCALE", resnets.scale),
            ],
        )?;
        check_dcn_stages(&resnets.stage_with_dcn, specs.len(), family)?;

        let stem = Stem::new(&path.sub("stem"), cfg)?;
        let mut in_channels = resnets.stem_out_channels;
        let mut stages = Vec::new();
        let mut out_channels = Vec::new();
        let mut strides = Vec::new();
        for spec in specs {
            let factor = 1 << (spec.index - 1);
            let first = BlockConfig {
                in_channels,
                bottleneck_channels: resnets.num_groups * resnets.width_per_group * factor,
                out_channels: resnets.res2_out_channels * factor,
                num_groups: resnets.num_groups,
                stride_in_1x1: resnets.stride_in_1x1,
                stride: if spec.index > 1 { 2 } else { 1 },
                dilation: 1,
                scale: resnets.scale,
                deformable: resnets.stage_with_dcn[spec.index as usize - 1].then_some(DeformableSettings {
                    modulated: resnets.with_modulated_dcn,
                    groups: resnets.deformable_groups,
                }),
                norm,
            };
            let stage = Stage::new(&path.sub(format!("layer{}", spec.index)), spec.block_count, first, build)?;
            stages.push((stage, spec.return_features));
            in_channels = first.out_channels;
            if spec.return_features {
                out_channels.push(first.out_channels);
                strides.push(4 * factor);
            }
        }
        freeze(path, cfg.model.backbone.freeze_conv_body_at, specs)?;
        let frozen = cfg.model.backbone.freeze_conv_body_at.max(0) as usize;
        Ok(Self { stem, stages, frozen, out_channels, strides })
    }

    /// The channels of the maps that are returned, finest first.
    pub fn out_channels(&self) -> &[i64] {
        &self.out_channels
    }

    /// How many times smaller than the image each map is that is returned, finest first.
    pub fn strides(&self) -> &[i64] {
        &self.strides
    }

    /// What is frozen runs without gradients in training, on the CPU channels-last, which is faster there; the maps
    /// that come out of it have the format of `x`.
    ///
    /// # Shapes
    /// `[N, 3, H, W]` to the last map of every stage that returns one, finest first.
    pub fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        let frozen = if train && !x.requires_grad() { self.frozen } else { 0 };
        let mut outputs = Vec::new();
        let mut x = x.shallow_clone();
        if frozen > 0 {
            let _no_grad = tch::no_grad_guard();
            let converts = x.device() == Device::Cpu && !ffi::is_channels_last(&x);
            let input = if converts { ffi::channels_last(&x) } else { x };
            x = self.forward_parts(0..frozen, input, train, &mut outputs);
            if converts {
                outputs.iter_mut().for_each(|output| *output = ffi::nchw(output));
                let returned = self.stages[..frozen - 1].last().is_some_and(|(_, returned)| *returned);
                x = match outputs.last() {
                    Some(output) if returned => output.shallow_clone(),
                    _ => ffi::nchw(&x),
                };
            }
        }
        let _last = self.forward_parts(frozen..self.stages.len() + 1, x, train, &mut outputs);
        outputs
    }

    /// Some of the parts in their order: 0 is the stem, n the n-th stage.
    fn forward_parts(&self, parts: Range<usize>, x: Tensor, train: bool, outputs: &mut Vec<Tensor>) -> Tensor {
        parts.fold(x, |x, part| {
            let Some(index) = part.checked_sub(1) else { return self.stem.forward(&x, train) };
            let (stage, returned) = &self.stages[index];
            let x = stage.forward(&x, train);
            if *returned {
                outputs.push(x.shallow_clone());
            }
            x
        })
    }
}

/// Stops gradients of the stem (from 1 on) and of the first `at - 1` stages; negative values freeze nothing.
fn freeze(path: &ParamPath, at: i64, specs: &[StageSpec]) -> Result<()> {
    for index in 0..at.max(0) {
        if index == 0 {
            path.sub("stem").freeze();
        } else {
            ensure!(
                specs.iter().any(|s| s.index == index),
                "MODEL.BACKBONE.FREEZE_CONV_BODY_AT is {at}, but the body has only {} stages and a stem",
                specs.len()
            );
            path.sub(format!("layer{index}")).freeze();
        }
    }
    Ok(())
}

fn check_dcn_stages(stage_with_dcn: &[bool], stages: usize, family: BlockFamily) -> Result<()> {
    ensure!(
        (stages..=4).contains(&stage_with_dcn.len()),
        "MODEL.RESNETS.STAGE_WITH_DCN has {} entries; it needs four, for res2 to res5",
        stage_with_dcn.len()
    );
    ensure!(
        family == BlockFamily::ResNet || !stage_with_dcn.contains(&true),
        "MODEL.RESNETS.STAGE_WITH_DCN is {stage_with_dcn:?}, but Res2Net blocks have no deformable convolution"
    );
    Ok(())
}

/// The Conv5 head of C4 models: stage 4 applied to regions.
pub struct ResNetHead {
    stages: Vec<Stage>,
    out_channels: i64,
}

/// What [`ResNetHead`] is built from.
#[derive(Clone, Copy, Debug)]
pub struct ResNetHeadConfig<'a> {
    /// `MODEL.RESNETS.TRANS_FUNC`: ResNet or Res2Net blocks.
    pub trans_func: &'a str,
    /// The stages, by index.
    pub stages: &'a [StageSpec],
    /// `MODEL.RESNETS.NUM_GROUPS`
    pub num_groups: i64,
    /// `MODEL.RESNETS.WIDTH_PER_GROUP`
    pub width_per_group: i64,
    /// `MODEL.RESNETS.STRIDE_IN_1X1`
    pub stride_in_1x1: bool,
    /// The stride of the first stage; `None` is the usual one (2 after stage 1).
    pub stride_init: Option<i64>,
    /// `MODEL.RESNETS.RES2_OUT_CHANNELS`
    pub res2_out_channels: i64,
    /// `MODEL.RESNETS.RES5_DILATION`; above 1 there is no stride.
    pub dilation: i64,
    /// `MODEL.RESNETS.SCALE` (Res2Net only).
    pub scale: i64,
    /// What blocks with group norm use.
    pub group_norm: GroupNormSettings,
}

impl<'a> ResNetHeadConfig<'a> {
    /// The Conv5 head that belongs to the body of `cfg`, with the given dilation (`MODEL.RESNETS.RES5_DILATION`).
    pub fn conv5(cfg: &'a Config) -> Self {
        const CONV5: [StageSpec; 1] = [StageSpec { index: 4, block_count: 3, return_features: false }];
        let resnets = &cfg.model.resnets;
        Self {
            trans_func: &resnets.trans_func,
            stages: &CONV5,
            num_groups: resnets.num_groups,
            width_per_group: resnets.width_per_group,
            stride_in_1x1: resnets.stride_in_1x1,
            stride_init: None,
            res2_out_channels: resnets.res2_out_channels,
            dilation: resnets.res5_dilation,
            scale: resnets.scale,
            group_norm: cfg.into(),
        }
    }
}

impl ResNetHead {
    /// # Errors
    /// The block is not known, or a width does not fit.
    pub fn new(path: &ParamPath, config: ResNetHeadConfig) -> Result<Self> {
        let (norm, build) = transformation(config.trans_func, None, config.group_norm)?;
        at_least(
            1,
            &[
                ("MODEL.RESNETS.RES2_OUT_CHANNELS", config.res2_out_channels),
                ("MODEL.RESNETS.NUM_GROUPS", config.num_groups),
                ("MODEL.RESNETS.WIDTH_PER_GROUP", config.width_per_group),
                ("MODEL.RESNETS.SCALE", config.scale),
                ("MODEL.RESNETS.RES5_DILATION", config.dilation),
            ],
        )?;
        let first_spec = config.stages.first().context("a ResNet head needs at least one stage")?;
        let factor = 1 << (first_spec.index - 1);
        let out_channels = config.res2_out_channels * factor;
        let mut stages = Vec::new();
        let mut stride_init = config.stride_init;
        for spec in config.stages {
            let first = BlockConfig {
                // Every stage of the original's head starts from half the channels; there is only one in practice.
                in_channels: out_channels / 2,
                bottleneck_channels: config.num_groups * config.width_per_group * factor,
                out_channels,
                num_groups: config.num_groups,
                stride_in_1x1: config.stride_in_1x1,
                stride: stride_init.take().unwrap_or(if spec.index > 1 { 2 } else { 1 }),
                dilation: config.dilation,
                scale: config.scale,
                deformable: None,
                norm,
            };
            stages.push(Stage::new(&path.sub(format!("layer{}", spec.index)), spec.block_count, first, build)?);
        }
        Ok(Self { stages, out_channels })
    }

    /// The number of channels of the result.
    pub fn out_channels(&self) -> i64 {
        self.out_channels
    }

    /// # Shapes
    /// `[R, out / 2, M, M]` to `[R, out, M / stride, M / stride]`; the stride is 1 with a dilation above 1.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.stages.iter().fold(x.shallow_clone(), |x, stage| stage.forward(&x, train))
    }
}
