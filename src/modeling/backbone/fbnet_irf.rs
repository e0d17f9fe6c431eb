//! Inverted residual blocks of FBNet architectures (Sandler et al. 2018; `IRFBlock` in
//! `modeling/backbone/fbnet_builder.py`).

use anyhow::Result;
use tch::Tensor;

use super::blocks::Block;
use super::fbnet_blocks::{conv_bn_relu, divisible_by, BlockStyle, ConvBnRelu};
use crate::layers::{interpolate, Conv2d, ConvConfig, ConvNorm, InterpolateMode, ParamPath, Size};

/// An inverted residual block, as its name in an architecture tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Irf {
    kernel: i64,
    /// Wins over the expansion of the architecture.
    pub(super) expansion: Option<i64>,
    /// Groups of the 1×1 convolutions, whose channels are shuffled in between.
    shuffle: Option<i64>,
    squeeze: bool,
    /// Two depthwise convolutions instead of one.
    cascade: bool,
}

const fn ir(kernel: i64) -> Irf {
    Irf { kernel, expansion: None, shuffle: None, squeeze: false, cascade: false }
}

impl Irf {
    const fn expand(self, expansion: i64) -> Self {
        Self { expansion: Some(expansion), ..self }
    }

    const fn shuffle(self, groups: i64) -> Self {
        Self { shuffle: Some(groups), ..self }
    }

    const fn se(self) -> Self {
        Self { squeeze: true, ..self }
    }

    const fn cascade(self) -> Self {
        Self { cascade: true, ..self }
    }
}

/// All kinds by name.
pub(super) const IRF: &[(&str, Irf)] = &[
    ("ir_k1", ir(1)),
    ("ir_k3", ir(3)),
    ("ir_k5", ir(5)),
    ("ir_k7", ir(7)),
    ("shuffle", ir(3).shuffle(4)),
    ("ir_k3_e1", ir(3).expand(1)),
    ("ir_k3_e3", ir(3).expand(3)),
    ("ir_k3_e6", ir(3).expand(6)),
    ("ir_k3_s4", ir(3).expand(4).shuffle(4)),
    ("ir_k3_s2", ir(3).expand(1).shuffle(2)),
    ("ir_k5_e1", ir(5).expand(1)),
    ("ir_k5_e3", ir(5).expand(3)),
    ("ir_k5_e6", ir(5).expand(6)),
    ("ir_k5_s4", ir(5).expand(4).shuffle(4)),
    ("ir_k5_s2", ir(5).expand(1).shuffle(2)),
    ("ir_k3_e1_se", ir(3).expand(1).se()),
    ("ir_k3_e3_se", ir(3).expand(3).se()),
    ("ir_k3_e6_se", ir(3).expand(6).se()),
    ("ir_k3_s4_se", ir(3).expand(4).shuffle(4).se()),
    ("ir_k3_s2_se", ir(3).expand(1).shuffle(2).se()),
    ("ir_k5_e1_se", ir(5).expand(1).se()),
    ("ir_k5_e3_se", ir(5).expand(3).se()),
    ("ir_k5_e6_se", ir(5).expand(6).se()),
    ("ir_k5_s4_se", ir(5).expand(4).shuffle(4).se()),
    ("ir_k5_s2_se", ir(5).expand(1).shuffle(2).se()),
    ("ir_k3_sep", ir(3).cascade()),
    ("ir_k33_e1", ir(3).expand(1).cascade()),
    ("ir_k33_e3", ir(3).expand(3).cascade()),
    ("ir_k33_e6", ir(3).expand(6).cascade()),
    ("ir_k7_e1", ir(7).expand(1)),
    ("ir_k7_e3", ir(7).expand(3)),
    ("ir_k7_e6", ir(7).expand(6)),
    ("ir_k7_sep", ir(7).cascade()),
    ("ir_k7_sep_e1", ir(7).expand(1).cascade()),
    ("ir_k7_sep_e3", ir(7).expand(3).cascade()),
    ("ir_k7_sep_e6", ir(7).expand(6).cascade()),
];

/// 1×1 expansion, depthwise convolution, 1×1 projection.
pub(super) struct IrfBlock {
    pw: ConvNorm,
    shuffle: Option<i64>,
    enlarge: Option<i64>,
    dw: Vec<ConvNorm>,
    pwl: ConvNorm,
    residual: bool,
    se4: Option<SqueezeExcitation>,
}

impl IrfBlock {
    /// # Errors
    /// Widths, groups and strides do not fit.
    pub(super) fn new(
        path: &ParamPath,
        irf: Irf,
        input: i64,
        output: i64,
        expansion: f64,
        stride: i64,
        style: BlockStyle,
    ) -> Result<Self> {
        let mid = divisible_by((input as f64 * expansion) as i64, style.width_divisor);
        let group = irf.shuffle.unwrap_or(1);
        let pointwise = |relu| ConvBnRelu { kernel: 1, stride: 1, group, relu, bn: Some(style.bn) };
        let pw = conv_bn_relu(&path.sub("pw"), input, mid, pointwise(true))?;

        let enlarge = (stride < 0).then_some(-stride);
        let down = stride.max(1);
        let kernel = irf.kernel;
        let plain = ConvBnRelu { kernel, stride: 1, group: mid, relu: true, bn: Some(style.bn) };
        let last = ConvBnRelu { relu: !style.dw_skip_relu, bn: (!style.dw_skip_bn).then_some(style.bn), ..plain };
        let dw_path = path.sub("dw");
        let dw = if kernel == 1 {
            Vec::new()
        } else if irf.cascade {
            vec![
                conv_bn_relu(&dw_path.sub("dw1"), mid, mid, ConvBnRelu { stride: down, ..plain })?,
                conv_bn_relu(&dw_path.sub("dw2"), mid, mid, last)?,
            ]
        } else {
            vec![conv_bn_relu(&dw_path, mid, mid, ConvBnRelu { stride: down, ..last })?]
        };
        let pwl = conv_bn_relu(&path.sub("pwl"), mid, output, pointwise(false))?;
        let se4 = irf.squeeze.then(|| SqueezeExcitation::new(&path.sub("se4.op"), output));
        Ok(Self { pw, shuffle: irf.shuffle, enlarge, dw, pwl, residual: stride == 1 && input == output, se4 })
    }
}

impl Block for IrfBlock {
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let mut y = self.pw.forward(x, train);
        if let Some(groups) = self.shuffle {
            y = channel_shuffle(&y, groups);
        }
        if let Some(factor) = self.enlarge {
            y = interpolate(&y, Size::Scale(factor as f64, factor as f64), InterpolateMode::Nearest);
        }
        for dw in &self.dw {
            y = dw.forward(&y, train);
        }
        y = self.pwl.forward(&y, train);
        if self.residual {
            y = y.g_add_(x);
        }
        match &self.se4 {
            Some(se4) => se4.forward(&y),
            None => y,
        }
    }
}

/// Interleaves the channels of groups (ShuffleNet, Zhang et al. 2017).
fn channel_shuffle(x: &Tensor, groups: i64) -> Tensor {
    let (batch, channels, height, width) = x.size4().expect("feature maps are [N, C, H, W]");
    x.reshape([batch, groups, channels / groups, height, width])
        .transpose(1, 2)
        .reshape([batch, channels, height, width])
}

/// Scales channels by what a small network makes of their means (Hu et al. 2017).
struct SqueezeExcitation {
    reduce: Conv2d,
    expand: Conv2d,
}

impl SqueezeExcitation {
    const REDUCTION: i64 = 4;

    fn new(path: &ParamPath, channels: i64) -> Self {
        let mid = (channels / Self::REDUCTION).max(8);
        Self {
            reduce: Conv2d::new(&path.sub(1), channels, mid, 1, ConvConfig::default()),
            expand: Conv2d::new(&path.sub(3), mid, channels, 1, ConvConfig::default()),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let mean = x.mean_dim([2, 3].as_slice(), true, x.kind());
        x * self.expand.forward(&self.reduce.forward(&mean).relu()).sigmoid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Parameters;
    use crate::modeling::backbone::fbnet_blocks::BnType;
    use crate::utils::testing::generator;
    use tch::{Device, Kind};

    #[test]
    fn a_negative_stride_enlarges() {
        let _generator = generator();
        let parameters = Parameters::new(Device::Cpu);
        let style = BlockStyle { bn: BnType::Batch, width_divisor: 1, dw_skip_bn: true, dw_skip_relu: true };
        let up = IrfBlock::new(&parameters.root().sub("up"), ir(3), 4, 4, 2.0, -2, style).unwrap();
        let x = Tensor::ones([1, 4, 5, 7], (Kind::Float, Device::Cpu));
        assert_eq!(up.forward(&x, false).size(), [1, 4, 10, 14]);
    }

    #[test]
    fn shuffling_interleaves_groups() {
        let x = Tensor::arange(6, (Kind::Float, Device::Cpu)).reshape([1, 6, 1, 1]);
        let shuffled = Vec::<f32>::try_from(channel_shuffle(&x, 2).flatten(0, -1)).unwrap();
        assert_eq!(shuffled, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }
}
