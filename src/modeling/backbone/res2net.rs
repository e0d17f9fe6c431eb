//! Res2Net blocks (Gao et al. 2019), as `modeling/backbone/res2net.py` of the Res2Net fork.

use anyhow::Result;
use tch::Tensor;

use super::blocks::{shortcut, without_bias, Block, BlockConfig, NamedBlock};
use crate::layers::{Conv2d, ConvConfig, ConvNorm, ParamPath};

/// The blocks that `MODEL.RESNETS.TRANS_FUNC` can name.
pub(super) const BLOCKS: [NamedBlock; 2] = [
    ("Bottle2neckWithFixedBatchNorm", false, Bottle2neck::boxed),
    ("Bottle2neckWithGN", true, Bottle2neck::boxed_with_scale_4),
];

/// A bottleneck whose middle is a hierarchy of 3×3 convolutions over `scale` splits of the channels.
///
/// In a normal block each split but the last is added to the result of the one before it and convolved; the last one
/// passes through. In the first block of a stage the splits are convolved independently, and the last one is averaged
/// over 3×3 (padding counts in the divisor, so borders are damped).
pub struct Bottle2neck {
    downsample: Option<ConvNorm>,
    conv1: ConvNorm,
    convs: Vec<ConvNorm>,
    conv3: ConvNorm,
    width: i64,
    scale: i64,
    /// The stride of the 3×3 convolutions and of the average.
    stride_3x3: i64,
}

impl Bottle2neck {
    /// # Errors
    /// Group norm does not fit the number of channels.
    pub fn new(path: &ParamPath, config: &BlockConfig) -> Result<Self> {
        let downsample = shortcut(path, config)?;
        // The original keeps the stride when it dilates, and then its sizes do not fit; here it is reset as in ResNet.
        let stride = if config.dilation > 1 { 1 } else { config.stride };
        let (stride_1x1, stride_3x3) = if config.stride_in_1x1 { (stride, 1) } else { (1, stride) };
        let (width, scale, norm) = (config.bottleneck_channels, config.scale, config.norm);

        let conv1 = ConvConfig { stride: stride_1x1, ..without_bias() };
        let conv1 = Conv2d::new(&path.sub("conv1"), config.in_channels, width * scale, 1, conv1);
        let bn1 = norm.build(&path.sub("bn1"), width * scale)?;

        let conv3x3 = ConvConfig {
            stride: stride_3x3,
            padding: config.dilation,
            dilation: config.dilation,
            groups: config.num_groups,
            ..without_bias()
        };
        let count = (scale - 1).max(1);
        let convs: Vec<Conv2d> =
            (0..count).map(|i| Conv2d::new(&path.sub("convs").sub(i), width, width, 3, conv3x3)).collect();
        let bns = (0..count).map(|i| norm.build(&path.sub("bns").sub(i), width)).collect::<Result<Vec<_>>>()?;

        let conv3 = Conv2d::new(&path.sub("conv3"), width * scale, config.out_channels, 1, without_bias());
        let bn3 = norm.build(&path.sub("bn3"), config.out_channels)?;
        Ok(Self {
            downsample,
            conv1: ConvNorm::new(conv1, Some(bn1), true),
            convs: convs.into_iter().zip(bns).map(|(conv, bn)| ConvNorm::new(conv, Some(bn), true)).collect(),
            conv3: ConvNorm::new(conv3, Some(bn3), true),
            width,
            scale,
            stride_3x3,
        })
    }

    fn boxed(path: &ParamPath, config: &BlockConfig) -> Result<Box<dyn Block>> {
        Ok(Box::new(Self::new(path, config)?))
    }

    /// The original's block with group norm has 4 splits whatever `MODEL.RESNETS.SCALE` says.
    fn boxed_with_scale_4(path: &ParamPath, config: &BlockConfig) -> Result<Box<dyn Block>> {
        if config.scale != 4 {
            log::warn!("MODEL.RESNETS.SCALE is {}, but Bottle2neckWithGN always has 4 splits", config.scale);
        }
        Self::boxed(path, &BlockConfig { scale: 4, ..*config })
    }

    /// Whether the channels change: such a block starts a stage. (Not the stride: with a stem as wide as the first
    /// stage, the first block is a normal one.)
    fn starts_stage(&self) -> bool {
        self.downsample.is_some()
    }
}

impl Block for Bottle2neck {
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let splits = self.conv1.forward(x, train).split(self.width, 1);
        let mut parts: Vec<Tensor> = Vec::with_capacity(splits.len());
        for (conv, split) in self.convs.iter().zip(&splits) {
            let part = match parts.last() {
                Some(previous) if !self.starts_stage() => conv.forward(&(previous + split), train),
                _ => conv.forward(split, train),
            };
            parts.push(part);
        }
        if self.scale > 1 {
            let last = &splits[self.convs.len()];
            parts.push(if self.starts_stage() {
                let s = self.stride_3x3;
                last.avg_pool2d([3, 3], [s, s], [1, 1], false, true, None)
            } else {
                last.shallow_clone()
            });
        }
        let out = Tensor::cat(&parts, 1);
        match &self.downsample {
            Some(downsample) => self.conv3.forward_residual(&out, &downsample.forward(x, train), train),
            None => self.conv3.forward_residual(&out, x, train),
        }
    }
}
