//! Builds the parts of FBNet models from their architecture (`modeling/backbone/fbnet_builder.py`).

use anyhow::{ensure, Result};
use tch::Tensor;

use super::blocks::Block;
use super::fbnet_blocks::{block, conv_bn_relu, divisible_by, BlockStyle, BnType, ConvBnRelu};
use super::fbnet_modeldef::{ArchDef, BlockDef};
use crate::config::registry::unknown_name;
use crate::config::Config;
use crate::layers::{ConvNorm, ParamPath};

/// Blocks one after the other.
pub struct Blocks(Vec<Box<dyn Block>>);

impl Blocks {
    /// # Shapes
    /// `[N, C, H, W]` to what the last block gives.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.0.iter().fold(x.shallow_clone(), |x, block| block.forward(&x, train))
    }
}

/// Adds one part after the other, and remembers how many channels the last one gives.
#[derive(Clone, Debug)]
pub struct FbNetBuilder {
    /// Multiplies all widths.
    width_ratio: f64,
    /// The channels that the next part gets.
    pub last_depth: i64,
    /// What is common to all blocks.
    pub style: BlockStyle,
}

impl FbNetBuilder {
    /// A builder and the architecture that `MODEL.FBNET` describes, whose next part gets `in_channels`.
    ///
    /// # Errors
    /// The architecture or the norm is not known, or `MODEL.RPN.ANCHOR_STRIDE` contradicts the architecture.
    pub fn new(cfg: &Config, in_channels: i64) -> Result<(Self, ArchDef)> {
        let fbnet = &cfg.model.fbnet;
        let arch = ArchDef::of(&fbnet.arch, &fbnet.arch_def)?;
        if let Some(stride) = arch.rpn_stride {
            ensure!(
                cfg.model.rpn.anchor_stride.first() == Some(&stride),
                "MODEL.RPN.ANCHOR_STRIDE is {:?}, but the FBNet architecture {:?} needs {stride}",
                cfg.model.rpn.anchor_stride.0,
                fbnet.arch
            );
        }
        let style = BlockStyle {
            bn: bn_type("MODEL.FBNET.BN_TYPE", &fbnet.bn_type, cfg)?,
            width_divisor: fbnet.width_divisor,
            dw_skip_bn: fbnet.dw_conv_skip_bn,
            dw_skip_relu: fbnet.dw_conv_skip_relu,
        };
        Ok((Self { width_ratio: fbnet.scale_factor, last_depth: in_channels, style }, arch))
    }

    fn scaled(&self, channels: i64) -> i64 {
        divisible_by((channels as f64 * self.width_ratio) as i64, self.style.width_divisor)
    }

    /// The first convolution: channels, stride and perhaps kernel.
    ///
    /// # Errors
    /// The stride is not known, or the kernel not positive.
    pub fn add_first(&mut self, path: &ParamPath, info: &[i64]) -> Result<ConvNorm> {
        let output = self.scaled(info[0]);
        let kernel = info.get(2).copied().unwrap_or(3);
        ensure!(kernel > 0, "MODEL.FBNET.ARCH_DEF: \"first\" is {info:?}; its kernel must be at least 1");
        let options = ConvBnRelu { kernel, stride: info[1], group: 1, relu: true, bn: Some(self.style.bn) };
        let conv = conv_bn_relu(path, self.last_depth, output, options)?;
        self.last_depth = output;
        Ok(conv)
    }

    /// Blocks, named after their stage and their position in it.
    ///
    /// # Errors
    /// An operator is not known, or widths and strides do not fit.
    pub fn add_blocks(&mut self, path: &ParamPath, blocks: &[BlockDef]) -> Result<Blocks> {
        let mut built = Vec::new();
        for def in blocks {
            let path = path.sub(format!("xif{}_{}", def.stage_idx, def.block_idx));
            let output = self.scaled(def.channels);
            built.push(block(&path, &def.op, self.last_depth, output, def.expansion, def.stride, self.style)?);
            self.last_depth = output;
        }
        Ok(Blocks(built))
    }

    /// The last convolution of a head: as many channels as the architecture says times `scale`, as many as there are
    /// times `-scale`, or none at all if either makes 0.
    ///
    /// # Errors
    /// Widths do not fit.
    pub fn add_last(&mut self, path: &ParamPath, channels: i64, scale: f64) -> Result<Option<ConvNorm>> {
        let width = if scale > 0.0 {
            let channels = if self.width_ratio > 1.0 { (channels as f64 * self.width_ratio) as i64 } else { channels };
            (channels as f64 * scale) as i64
        } else {
            (self.last_depth as f64 * -scale) as i64
        };
        let width = divisible_by(width, self.style.width_divisor);
        if width == 0 {
            return Ok(None);
        }
        let options = ConvBnRelu { kernel: 1, stride: 1, group: 1, relu: true, bn: Some(self.style.bn) };
        let conv = conv_bn_relu(path, self.last_depth, width, options)?;
        self.last_depth = width;
        Ok(Some(conv))
    }
}

/// The norm that a key names. The original has `gn` but looks for its number of groups in a section that does not
/// exist; here it is `MODEL.GROUP_NORM.NUM_GROUPS`.
///
/// # Errors
/// The norm is not known.
pub fn bn_type(key: &str, name: &str, cfg: &Config) -> Result<BnType> {
    Ok(match name {
        "bn" => BnType::Batch,
        "af" => BnType::Frozen,
        "gn" => BnType::Group(cfg.model.group_norm.num_groups),
        _ => return Err(unknown_name(key, name, ["bn", "af", "gn"])),
    })
}
