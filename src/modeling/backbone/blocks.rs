//! What the blocks of all bodies have in common: their settings, how they are looked up, and their shortcut.

use anyhow::Result;
use tch::Tensor;

use super::{bottleneck, res2net};
use crate::config::registry::unknown_name;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, FrozenBatchNorm2d, Init, Norm, ParamPath};
use crate::modeling::make_layers::{group_norm, GroupNormSettings};

/// The norm that a stem or block puts after its convolutions.
#[derive(Clone, Copy, Debug)]
pub enum NormKind {
    /// Batch norm with fixed statistics.
    FixedBatchNorm,
    /// Group norm.
    GroupNorm(GroupNormSettings),
}

impl NormKind {
    /// A norm over `channels` channels.
    ///
    /// # Errors
    /// Group norm does not fit the number of channels.
    pub fn build(&self, path: &ParamPath, channels: i64) -> Result<Norm> {
        Ok(match self {
            NormKind::FixedBatchNorm => Norm::Frozen(FrozenBatchNorm2d::new(path, channels)),
            NormKind::GroupNorm(settings) => Norm::Group(group_norm(path, channels, settings)?),
        })
    }
}

/// One residual block.
pub trait Block {
    /// # Shapes
    /// `[N, in, H, W]` to `[N, out, H / stride, W / stride]`.
    fn forward(&self, x: &Tensor, train: bool) -> Tensor;
}

/// What a residual block is built from.
#[derive(Clone, Copy, Debug)]
pub struct BlockConfig {
    /// Channels of the input.
    pub in_channels: i64,
    /// Channels of the 3×3 convolution (of each split in Res2Net).
    pub bottleneck_channels: i64,
    /// Channels of the result.
    pub out_channels: i64,
    /// Groups of the 3×3 convolution (ResNeXt).
    pub num_groups: i64,
    /// Whether the stride sits in the first 1×1 convolution (MSRA's models) or in the 3×3 one (ResNeXt, PyTorch's).
    pub stride_in_1x1: bool,
    /// How much smaller the result is.
    pub stride: i64,
    /// Of the 3×3 convolution; above 1 there is no stride.
    pub dilation: i64,
    /// Number of splits (Res2Net only).
    pub scale: i64,
    /// What the 3×3 convolution is if it is deformable (ResNet only).
    pub deformable: Option<DeformableSettings>,
    /// The norm after every convolution.
    pub norm: NormKind,
}

/// The deformable convolutions of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeformableSettings {
    /// `MODEL.RESNETS.WITH_MODULATED_DCN`: version 2 instead of version 1.
    pub modulated: bool,
    /// `MODEL.RESNETS.DEFORMABLE_GROUPS`
    pub groups: i64,
}

/// Makes one kind of block.
pub type BlockBuilder = fn(&ParamPath, &BlockConfig) -> Result<Box<dyn Block>>;

/// An entry of a table of blocks: the name in `MODEL.RESNETS.TRANS_FUNC`, whether its norm is group norm, its builder.
pub(super) type NamedBlock = (&'static str, bool, BlockBuilder);

/// Which blocks a body is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFamily {
    /// ResNet and ResNeXt.
    ResNet,
    /// Res2Net.
    Res2Net,
}

/// Looks `MODEL.RESNETS.TRANS_FUNC` up among the blocks of one family, or of both where either will do.
pub(super) fn transformation(
    name: &str,
    family: Option<BlockFamily>,
    settings: GroupNormSettings,
) -> Result<(NormKind, BlockBuilder)> {
    let candidates: Vec<&NamedBlock> = match family {
        Some(BlockFamily::ResNet) => bottleneck::BLOCKS.iter().collect(),
        Some(BlockFamily::Res2Net) => res2net::BLOCKS.iter().collect(),
        None => bottleneck::BLOCKS.iter().chain(&res2net::BLOCKS).collect(),
    };
    let Some((_, with_gn, build)) = candidates.iter().find(|(known, ..)| *known == name) else {
        let bodies = match family {
            Some(BlockFamily::ResNet) => "an R-… body",
            Some(BlockFamily::Res2Net) => "an R2-… body",
            None => "a C5 head",
        };
        let known = candidates.iter().map(|(known, ..)| *known);
        let error = unknown_name("MODEL.RESNETS.TRANS_FUNC", name, known);
        return Err(error.context(format!("choosing the blocks of {bodies}")));
    };
    let norm = if *with_gn { NormKind::GroupNorm(settings) } else { NormKind::FixedBatchNorm };
    Ok((norm, *build))
}

/// Convolutions inside bodies: no bias, Caffe2's XavierFill.
pub(super) fn without_bias() -> ConvConfig {
    ConvConfig { bias: false, weight_init: Init::KaimingUniform { a: 1.0 }, ..ConvConfig::default() }
}

/// The projection on the shortcut of a block whose channels change, with its norm: `downsample.0`, `downsample.1`.
pub(super) fn shortcut(path: &ParamPath, config: &BlockConfig) -> Result<Option<ConvNorm>> {
    if config.in_channels == config.out_channels {
        return Ok(None);
    }
    let path = path.sub("downsample");
    let stride = if config.dilation == 1 { config.stride } else { 1 };
    let conv = ConvConfig { stride, ..without_bias() };
    let conv = Conv2d::new(&path.sub(0), config.in_channels, config.out_channels, 1, conv);
    let norm = config.norm.build(&path.sub(1), config.out_channels)?;
    Ok(Some(ConvNorm::new(conv, Some(norm), false)))
}
