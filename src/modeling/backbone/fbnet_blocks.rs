//! The operators of FBNet architectures (`PRIMITIVES` in `modeling/backbone/fbnet_builder.py`) and what they are made
//! of. The inverted residual blocks are in `fbnet_irf.rs`.

use anyhow::{ensure, Result};
use tch::{Device, Kind, Tensor};

use super::blocks::Block;
use super::fbnet_irf::{IrfBlock, IRF};
use crate::config::registry::unknown_name;
use crate::layers::{BatchNorm2d, Conv2d, ConvConfig, ConvNorm, FrozenBatchNorm2d, GroupNorm, Init, Norm, ParamPath};

/// The norm after a convolution (`MODEL.FBNET.BN_TYPE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BnType {
    /// `bn`
    Batch,
    /// `af`: fixed statistics
    Frozen,
    /// `gn`, with this number of groups
    Group(i64),
}

impl BnType {
    fn build(self, path: &ParamPath, channels: i64) -> Result<Norm> {
        Ok(match self {
            BnType::Batch => Norm::Batch(BatchNorm2d::new(path, channels)),
            BnType::Frozen => Norm::Frozen(FrozenBatchNorm2d::new(path, channels)),
            BnType::Group(groups) => {
                ensure!(
                    groups > 0 && channels % groups == 0,
                    "MODEL.GROUP_NORM.NUM_GROUPS {groups} does not divide {channels} channels of {path}"
                );
                Norm::Group(GroupNorm::new(path, groups, channels, 1e-5))
            }
        })
    }
}

/// Rounds to a multiple of `divisor` (the nearest, halves away from zero), if that is positive.
///
/// As in the original, a width that would become 0 becomes `divisor * divisor`.
pub fn divisible_by(width: i64, divisor: i64) -> i64 {
    if divisor <= 0 || width % divisor == 0 {
        return width;
    }
    let multiples = (width as f64 / divisor as f64).round() as i64;
    (if multiples == 0 { divisor } else { multiples }) * divisor
}

fn ensure_widths(path: &ParamPath, input: i64, output: i64) -> Result<()> {
    ensure!(
        input > 0 && output > 0,
        "{path} has {input} and {output} channels; widths come from MODEL.FBNET's architecture times SCALE_FACTOR"
    );
    Ok(())
}

/// The choices of [`conv_bn_relu`] besides channels.
#[derive(Clone, Copy, Debug)]
pub struct ConvBnRelu {
    /// Side of the kernel.
    pub kernel: i64,
    /// 1, 2 or 4.
    pub stride: i64,
    /// Groups of channels.
    pub group: i64,
    /// Whether a ReLU comes last.
    pub relu: bool,
    /// The norm after the convolution.
    pub bn: Option<BnType>,
}

/// A convolution without bias that keeps the size at stride 1 (`conv`), a norm (`bn`) and a ReLU.
///
/// # Errors
/// The stride or the number of groups does not fit.
pub fn conv_bn_relu(path: &ParamPath, input: i64, output: i64, options: ConvBnRelu) -> Result<ConvNorm> {
    let ConvBnRelu { kernel, stride, group, relu, bn } = options;
    ensure!([1, 2, 4].contains(&stride), "{path} has stride {stride}; FBNet knows 1, 2 and 4");
    ensure_widths(path, input, output)?;
    ensure!(
        input % group == 0 && output % group == 0,
        "{path} has {input} and {output} channels, which {group} groups do not divide"
    );
    let config = ConvConfig {
        stride,
        padding: kernel / 2,
        groups: group,
        bias: false,
        weight_init: Init::KaimingNormalFanOut,
        ..ConvConfig::default()
    };
    let conv = Conv2d::new(&path.sub("conv"), input, output, kernel, config);
    let norm = bn.map(|bn| bn.build(&path.sub("bn"), output)).transpose()?;
    Ok(ConvNorm::new(conv, norm, relu))
}

/// What every block of a model has in common.
#[derive(Clone, Copy, Debug)]
pub struct BlockStyle {
    /// The norm after convolutions.
    pub bn: BnType,
    /// Widths are multiples of it.
    pub width_divisor: i64,
    /// Whether depthwise convolutions have no norm.
    pub dw_skip_bn: bool,
    /// Whether depthwise convolutions have no ReLU.
    pub dw_skip_relu: bool,
}

/// A block by the name of its operator.
///
/// # Errors
/// The name is not known (the message lists those that are), or widths or strides do not fit.
pub fn block(
    path: &ParamPath,
    op: &str,
    input: i64,
    output: i64,
    expansion: f64,
    stride: i64,
    style: BlockStyle,
) -> Result<Box<dyn Block>> {
    if let Some((_, irf)) = IRF.iter().find(|(name, _)| *name == op) {
        let expansion = irf.expansion.map_or(expansion, |e| e as f64);
        return Ok(Box::new(IrfBlock::new(path, *irf, input, output, expansion, stride, style)?));
    }
    Ok(match op {
        "skip" => Box::new(Identity::new(path, input, output, stride)?),
        "basic_block" => Box::new(CascadeConv3x3::new(path, input, output, stride)?),
        "shift_5x5" => Box::new(ShiftBlock5x5::new(path, input, output, expansion, stride)?),
        _ => {
            let known = IRF.iter().map(|(name, _)| *name).chain(["skip", "basic_block", "shift_5x5"]);
            return Err(unknown_name("the operator of an FBNet architecture", op, known));
        }
    })
}

/// Nothing, or a 1×1 convolution where channels or size change.
struct Identity {
    conv: Option<ConvNorm>,
}

impl Identity {
    fn new(path: &ParamPath, input: i64, output: i64, stride: i64) -> Result<Self> {
        let options = ConvBnRelu { kernel: 1, stride, group: 1, relu: true, bn: Some(BnType::Batch) };
        let needed = input != output || stride != 1;
        let conv = needed.then(|| conv_bn_relu(&path.sub("conv"), input, output, options)).transpose()?;
        Ok(Self { conv })
    }
}

impl Block for Identity {
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        match &self.conv {
            Some(conv) => conv.forward(x, train),
            None => x.shallow_clone(),
        }
    }
}

/// A convolution of a block that is a sequence, with the batch norm after it at the next index.
fn indexed_conv(
    path: &ParamPath,
    at: i64,
    (input, output): (i64, i64),
    kernel: i64,
    stride: i64,
    relu: bool,
) -> Result<ConvNorm> {
    ensure_widths(&path.sub(at), input, output)?;
    let config = ConvConfig { stride, padding: kernel / 2, bias: false, ..ConvConfig::default() };
    let conv = Conv2d::new(&path.sub(at), input, output, kernel, config);
    let norm = BatchNorm2d::new(&path.sub(at + 1), output);
    Ok(ConvNorm::new(conv, Some(Norm::Batch(norm)), relu))
}

fn ensure_stride_1_or_2(path: &ParamPath, stride: i64) -> Result<()> {
    ensure!([1, 2].contains(&stride), "{path} has stride {stride}; this operator knows 1 and 2");
    Ok(())
}

/// Two 3×3 convolutions with a shortcut.
struct CascadeConv3x3 {
    first: ConvNorm,
    second: ConvNorm,
    residual: bool,
}

impl CascadeConv3x3 {
    fn new(path: &ParamPath, input: i64, output: i64, stride: i64) -> Result<Self> {
        ensure_stride_1_or_2(path, stride)?;
        Ok(Self {
            first: indexed_conv(path, 0, (input, input), 3, stride, true)?,
            second: indexed_conv(path, 3, (input, output), 3, 1, false)?,
            residual: stride == 1 && input == output,
        })
    }
}

impl Block for CascadeConv3x3 {
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let mut y = self.second.forward(&self.first.forward(x, train), train);
        if self.residual {
            y = y.g_add_(x);
        }
        y
    }
}

/// A shift of channels between two 1×1 convolutions (Wu et al. 2017).
struct ShiftBlock5x5 {
    expand: ConvNorm,
    /// One-hot 5×5 kernels, one per channel.
    kernel: Tensor,
    stride: i64,
    project: ConvNorm,
    residual: bool,
}

impl ShiftBlock5x5 {
    fn new(path: &ParamPath, input: i64, output: i64, expansion: f64, stride: i64) -> Result<Self> {
        ensure_stride_1_or_2(path, stride)?;
        let mid = divisible_by((input as f64 * expansion) as i64, 8);
        let expand = indexed_conv(path, 0, (input, mid), 1, 1, true)?;
        let kernel = path.sub(3).parameter("kernel", &[mid, 1, 5, 5], Init::Const(0.0)).set_requires_grad(false);
        kernel.shallow_clone().copy_(&Self::shifts(mid).to_device(path.device()));
        let project = indexed_conv(path, 4, (mid, output), 1, 1, false)?;
        Ok(Self { expand, kernel, stride, project, residual: stride == 1 && input == output })
    }

    /// Each of the 25 directions gets as many channels; the remainder stays in place.
    fn shifts(channels: i64) -> Tensor {
        let each = channels / 25;
        let kernel = Tensor::zeros([channels, 1, 25], (Kind::Float, Device::Cpu));
        let mut from = 0;
        for position in 0..25 {
            let count = if position == 12 { each + channels % 25 } else { each };
            let _ = kernel.narrow(0, from, count).narrow(2, position, 1).fill_(1.0);
            from += count;
        }
        kernel.reshape([channels, 1, 5, 5])
    }
}

impl Block for ShiftBlock5x5 {
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let y = self.expand.forward(x, train);
        let (s, groups) = (self.stride, self.kernel.size()[0]);
        let y = y.conv2d(&self.kernel, None::<&Tensor>, [s, s], [2, 2], [1, 1], groups);
        let mut y = self.project.forward(&y, train);
        if self.residual {
            y = y.g_add_(x);
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Parameters;
    use crate::utils::testing::generator;

    const STYLE: BlockStyle = BlockStyle { bn: BnType::Batch, width_divisor: 1, dw_skip_bn: true, dw_skip_relu: true };

    #[test]
    fn widths_are_rounded_as_in_the_original() {
        let cases = [(32, 0), (30, 8), (28, 8), (27, 8), (3, 8), (4, 8), (7, 1)];
        assert_eq!(cases.map(|(width, divisor)| divisible_by(width, divisor)), [32, 32, 32, 24, 64, 8, 7]);
    }

    #[test]
    fn every_operator_changes_channels_and_size_and_can_be_trained() {
        let _generator = generator();
        let others = ["skip", "basic_block", "shift_5x5"];
        for op in IRF.iter().map(|(name, _)| *name).chain(others) {
            let parameters = Parameters::new(Device::Cpu);
            let x = Tensor::ones([2, 8, 6, 6], (Kind::Float, Device::Cpu));
            let path = parameters.root().sub("block");
            let same = block(&path.sub("same"), op, 8, 8, 3.0, 1, STYLE).unwrap();
            let down = block(&path.sub("down"), op, 8, 12, 3.0, 2, STYLE).unwrap();
            let y = down.forward(&same.forward(&x, true), true);
            // A kernel of 1 has no depthwise convolution, so nothing that could have the stride.
            let side = if op == "ir_k1" { 6 } else { 3 };
            assert_eq!(y.size(), [2, 12, side, side], "{op}");
            y.sum(Kind::Float).backward();
            for (name, parameter) in parameters.trainable() {
                assert!(parameter.grad().defined(), "{op}: {name} has no gradient");
            }
        }
        let unknown = block(&Parameters::new(Device::Cpu).root(), "ir_k9", 8, 8, 1.0, 1, STYLE).err().unwrap();
        assert!(unknown.to_string().contains("ir_k7_sep_e6"), "{unknown}");
    }

    #[test]
    fn widths_that_are_not_positive_are_refused() {
        let _generator = generator();
        let others = ["skip", "basic_block", "shift_5x5"];
        for op in IRF.iter().map(|(name, _)| *name).chain(others) {
            let root = || Parameters::new(Device::Cpu).root();
            let build = |output, expansion| block(&root(), op, 8, output, expansion, 1, STYLE);
            let mut cases = vec![(0, 3.0), (-8, 3.0)];
            if op == "shift_5x5" {
                cases.push((8, -3.0));
            }
            for (output, expansion) in cases {
                let error = build(output, expansion).err().unwrap_or_else(|| panic!("{op} {output} {expansion}"));
                assert!(error.to_string().contains("MODEL.FBNET"), "{error}");
            }
        }
    }

    #[test]
    fn shifts_share_the_channels_among_25_directions() {
        let kernel = ShiftBlock5x5::shifts(53);
        let per_direction =
            Vec::<f32>::try_from(kernel.sum_dim_intlist([0, 1].as_slice(), false, Kind::Float).flatten(0, -1));
        let mut want = vec![2.0; 25];
        want[12] = 5.0;
        assert_eq!(per_direction.unwrap(), want);
        assert_eq!(kernel.sum(Kind::Float).double_value(&[]), 53.0);
    }
}
