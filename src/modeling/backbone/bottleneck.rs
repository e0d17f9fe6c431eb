//! ResNet blocks (He et al. 2015, Xie et al. 2016), as `modeling/backbone/resnet.py` of the original.

use anyhow::{ensure, Result};
use tch::Tensor;

use super::blocks::{shortcut, without_bias, Block, BlockConfig, DeformableSettings, NamedBlock};
use crate::layers::{Conv2d, ConvConfig, ConvNorm, DFConv2d, DFConvConfig, Norm, ParamPath};

/// The blocks that `MODEL.RESNETS.TRANS_FUNC` can name.
pub(super) const BLOCKS: [NamedBlock; 2] =
    [("BottleneckWithFixedBatchNorm", false, Bottleneck::boxed), ("BottleneckWithGN", true, Bottleneck::boxed)];

/// The 3×3 convolution of a bottleneck with its norm; a ReLU follows.
enum Middle {
    Plain(ConvNorm),
    Deformable(DFConv2d, Norm),
}

impl Middle {
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        match self {
            Middle::Plain(conv) => conv.forward(x, train),
            Middle::Deformable(conv, norm) => norm.finish(conv.forward(x), None, true, train),
        }
    }
}

/// 1×1, 3×3 and 1×1 convolution with a shortcut.
pub struct Bottleneck {
    downsample: Option<ConvNorm>,
    conv1: ConvNorm,
    conv2: Middle,
    conv3: ConvNorm,
}

impl Bottleneck {
    /// # Errors
    /// Group norm does not fit the number of channels.
    pub fn new(path: &ParamPath, config: &BlockConfig) -> Result<Self> {
        let downsample = shortcut(path, config)?;
        let stride = if config.dilation > 1 { 1 } else { config.stride };
        let (stride_1x1, stride_3x3) = if config.stride_in_1x1 { (stride, 1) } else { (1, stride) };
        let (width, norm) = (config.bottleneck_channels, config.norm);

        let conv1 = ConvConfig { stride: stride_1x1, ..without_bias() };
        let conv1 = Conv2d::new(&path.sub("conv1"), config.in_channels, width, 1, conv1);
        let bn1 = norm.build(&path.sub("bn1"), width)?;
        let conv2 = Self::middle(path, config, stride_3x3)?;
        let conv3 = Conv2d::new(&path.sub("conv3"), width, config.out_channels, 1, without_bias());
        let bn3 = norm.build(&path.sub("bn3"), config.out_channels)?;
        Ok(Self {
            downsample,
            conv1: ConvNorm::new(conv1, Some(bn1), true),
            conv2,
            conv3: ConvNorm::new(conv3, Some(bn3), true),
        })
    }

    fn middle(path: &ParamPath, config: &BlockConfig, stride: i64) -> Result<Middle> {
        let (width, groups, dilation) = (config.bottleneck_channels, config.num_groups, config.dilation);
        let (conv2, bn2) = (path.sub("conv2"), path.sub("bn2"));
        if let Some(DeformableSettings { modulated, groups: deformable_groups }) = config.deformable {
            ensure!(
                deformable_groups > 0 && width % deformable_groups == 0,
                "MODEL.RESNETS.DEFORMABLE_GROUPS {deformable_groups} does not divide {width} channels"
            );
            let settings = DFConvConfig { modulated, stride, dilation, groups, deformable_groups, bias: false };
            let conv = DFConv2d::new(&conv2, width, width, 3, settings);
            return Ok(Middle::Deformable(conv, config.norm.build(&bn2, width)?));
        }
        let conv = ConvConfig { stride, padding: dilation, dilation, groups, ..without_bias() };
        let conv = Conv2d::new(&conv2, width, width, 3, conv);
        Ok(Middle::Plain(ConvNorm::new(conv, Some(config.norm.build(&bn2, width)?), true)))
    }

    fn boxed(path: &ParamPath, config: &BlockConfig) -> Result<Box<dyn Block>> {
        Ok(Box::new(Self::new(path, config)?))
    }
}

impl Block for Bottleneck {
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let out = self.conv1.forward(x, train);
        let out = self.conv2.forward(&out, train);
        match &self.downsample {
            Some(downsample) => self.conv3.forward_residual(&out, &downsample.forward(x, train), train),
            None => self.conv3.forward_residual(&out, x, train),
        }
    }
}
