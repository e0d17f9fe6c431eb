//! Convolutions, linear layers and resizing, as `layers/misc.py` of the original: the modules of `torch.nn` with their
//! names, their order of parameters and their initialisation. Empty batches pass through (libtorch computes them now).

use tch::Tensor;

use crate::ffi::{self, FusedConv};

use super::dcn::{DeformConv, DeformConvGeometry, ModulatedDeformConv};
use super::precision::KeptCast;
use super::{flops, Init, ParamPath};

/// PyTorch's own initialisation of convolution and linear weights (`kaiming_uniform_` with `a = sqrt(5)`).
pub const DEFAULT_WEIGHT_INIT: Init = Init::KaimingUniform { a: 2.236_067_977_499_79 };

/// The settings of a convolution besides its channels and its (square) kernel.
#[derive(Clone, Copy, Debug)]
pub struct ConvConfig {
    /// Pixels from one position of the kernel to the next.
    pub stride: i64,
    /// Zeros on each side.
    pub padding: i64,
    /// Pixels from one weight of the kernel to the next.
    pub dilation: i64,
    /// Groups of channels that do not see each other.
    pub groups: i64,
    /// Whether there is a bias.
    pub bias: bool,
    /// How the weights begin.
    pub weight_init: Init,
    /// `None` is PyTorch's own: uniform within one over the root of the fan-in.
    pub bias_init: Option<Init>,
}

impl Default for ConvConfig {
    fn default() -> Self {
        Self {
            stride: 1,
            padding: 0,
            dilation: 1,
            groups: 1,
            bias: true,
            weight_init: DEFAULT_WEIGHT_INIT,
            bias_init: None,
        }
    }
}

fn bias_init(init: Option<Init>, fan_in: i64) -> Init {
    let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
    init.unwrap_or(Init::Uniform { low: -bound, high: bound })
}

/// The parameters of a convolution or transposed convolution: `weight` of this shape and, with `config.bias`, `bias`.
/// `torch.nn.init` takes the second dimension for the fan-in of both.
fn conv_parameters(
    path: &ParamPath,
    shape: [i64; 4],
    out_channels: i64,
    config: &ConvConfig,
) -> (Tensor, Option<Tensor>) {
    let weight = path.factor("weight", &shape, config.weight_init);
    let fan_in = shape[1..].iter().product();
    let bias = config.bias.then(|| path.parameter("bias", &[out_channels], bias_init(config.bias_init, fan_in)));
    (weight, bias)
}

/// The number of weights for each index of the first dimension.
fn weights_per_row(weight: &Tensor) -> usize {
    weight.numel() / weight.size()[0].max(1) as usize
}

/// `y` plus `residual`, then ReLU, in the memory of `y`.
pub(super) fn add_and_rectify(mut y: Tensor, residual: Option<&Tensor>, relu: bool) -> Tensor {
    if let Some(residual) = residual {
        y = y.g_add_(residual);
    }
    if relu {
        y.relu_()
    } else {
        y
    }
}

/// A convolution with what comes after it: its bias, plus `residual`, then ReLU. `convolve` is given the bias that the
/// convolution itself shall add.
///
/// libtorch adds the bias on CUDA in an operator of its own, which is slow in channels-last: there everything that
/// comes after the convolution is one pass over its result. On the CPU oneDNN adds the bias while it computes.
fn convolve_then(
    convolve: impl FnOnce(Option<&Tensor>) -> Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    relu: bool,
) -> Tensor {
    match bias {
        Some(bias) if bias.device().is_cuda() => ffi::channel_affine(convolve(None), (None, bias), residual, relu)
            .expect("a bias and a residual that fit the convolution's result"),
        _ => add_and_rectify(convolve(bias), residual, relu),
    }
}

/// A 2-D convolution (`torch.nn.Conv2d`) with a square kernel.
#[derive(Debug)]
pub struct Conv2d {
    /// `[out, in / groups, k, k]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Tensor>,
    config: ConvConfig,
    cast: KeptCast,
}

impl Conv2d {
    /// Parameters `weight` `[out, in / groups, k, k]` and, with `config.bias`, `bias` `[out]`.
    pub fn new(path: &ParamPath, in_channels: i64, out_channels: i64, kernel_size: i64, config: ConvConfig) -> Self {
        let shape = [out_channels, in_channels / config.groups, kernel_size, kernel_size];
        let (weight, bias) = conv_parameters(path, shape, out_channels, &config);
        Self { weight, bias, config, cast: KeptCast::default() }
    }

    /// # Shapes
    /// `[N, in, H, W]` to `[N, out, H', W']`; `N` may be 0.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_then(x, None, false)
    }

    /// The convolution, plus `residual`, then ReLU. With a bias on CUDA, what comes after the convolution is one pass
    /// over its result; the type must be float32 or have 16 bits then.
    ///
    /// # Shapes
    /// `[N, in, H, W]` and `[N, out, H', W']` to `[N, out, H', W']`; `N` may be 0.
    pub fn forward_then(&self, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Tensor {
        self.forward_with(x, &self.cast.of(&self.weight, x), self.bias.as_ref(), residual, relu)
    }

    /// The same with given weights instead of its own.
    pub(super) fn forward_with(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Tensor {
        let ConvConfig { stride: s, padding: p, dilation: d, groups, .. } = self.config;
        let convolve = |bias: Option<&Tensor>| {
            let y = x.conv2d(weight, bias, [s, s], [p, p], [d, d], groups);
            flops::record(y.numel(), weights_per_row(weight));
            y
        };
        convolve_then(convolve, bias, residual, relu)
    }

    /// The same as one operator: see [`ffi::can_fuse_conv`] for the inputs that it takes.
    pub(super) fn forward_fused(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Tensor {
        let ConvConfig { stride, padding, dilation, groups, .. } = self.config;
        let conv = FusedConv { weight, bias, residual, stride, padding, dilation, groups, relu };
        let y = ffi::fused_conv(x, &conv).expect("a convolution whose shapes fit");
        flops::record(y.numel(), weights_per_row(weight));
        y
    }
}

/// A transposed 2-D convolution (`torch.nn.ConvTranspose2d`) with a square kernel.
#[derive(Debug)]
pub struct ConvTranspose2d {
    /// `[in, out / groups, k, k]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Tensor>,
    /// The stride is the number of pixels of the output per pixel of the input, the padding what is left out of it.
    config: ConvConfig,
    output_padding: i64,
    cast: KeptCast,
}

impl ConvTranspose2d {
    /// Parameters `weight` `[in, out / groups, k, k]` and, with `config.bias`, `bias` `[out]`.
    pub fn new(path: &ParamPath, in_channels: i64, out_channels: i64, kernel_size: i64, config: ConvConfig) -> Self {
        let shape = [in_channels, out_channels / config.groups, kernel_size, kernel_size];
        let (weight, bias) = conv_parameters(path, shape, out_channels, &config);
        Self { weight, bias, config, output_padding: 0, cast: KeptCast::default() }
    }

    /// The same with `output_padding` more rows and columns at the bottom and right of the output, as in torch. No
    /// model of the original has any; it is for heads of other crates.
    pub fn with_output_padding(self, output_padding: i64) -> Self {
        Self { output_padding, ..self }
    }

    /// # Shapes
    /// `[N, in, H, W]` to `[N, out, H', W']`; `N` may be 0.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_then(x, false)
    }

    /// The convolution, then ReLU, as [`Conv2d::forward_then`] has it.
    ///
    /// # Shapes
    /// `[N, in, H, W]` to `[N, out, H', W']`; `N` may be 0.
    pub fn forward_then(&self, x: &Tensor, relu: bool) -> Tensor {
        let ConvConfig { stride: s, padding: p, dilation: d, groups, .. } = self.config;
        let o = self.output_padding;
        let convolve = |bias: Option<&Tensor>| {
            flops::record(x.numel(), weights_per_row(&self.weight));
            x.conv_transpose2d(&self.cast.of(&self.weight, x), bias, [s, s], [p, p], [o, o], groups, [d, d])
        };
        convolve_then(convolve, self.bias.as_ref(), None, relu)
    }
}

/// The settings of a linear layer besides its sizes.
#[derive(Clone, Copy, Debug)]
pub struct LinearConfig {
    /// Whether there is a bias.
    pub bias: bool,
    /// How the weights begin.
    pub weight_init: Init,
    /// `None` is PyTorch's own: uniform within one over the root of the fan-in.
    pub bias_init: Option<Init>,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self { bias: true, weight_init: DEFAULT_WEIGHT_INIT, bias_init: None }
    }
}

/// A linear layer (`torch.nn.Linear`).
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Tensor>,
    cast: KeptCast,
    bias_cast: KeptCast,
}

impl Linear {
    /// Parameters `weight` `[out, in]` and, with `config.bias`, `bias` `[out]`.
    pub fn new(path: &ParamPath, in_features: i64, out_features: i64, config: LinearConfig) -> Self {
        let weight = path.factor("weight", &[out_features, in_features], config.weight_init);
        let bias = config.bias.then(|| path.factor("bias", &[out_features], bias_init(config.bias_init, in_features)));
        Self { weight, bias, cast: KeptCast::default(), bias_cast: KeptCast::default() }
    }

    /// # Shapes
    /// `[N, in]` to `[N, out]`; `N` may be 0.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let bias = self.bias.as_ref().map(|bias| self.bias_cast.of(bias, x));
        let y = x.linear(&self.cast.of(&self.weight, x), bias.as_ref());
        flops::record(y.numel(), weights_per_row(&self.weight));
        y
    }
}

/// The settings of a deformable convolution besides its channels and its (square) kernel.
#[derive(Clone, Copy, Debug)]
pub struct DFConvConfig {
    /// Whether positions are also weighted (version 2, Zhu et al. 2018) or only moved (version 1, Dai et al. 2017).
    pub modulated: bool,
    /// Pixels from one position of the kernel to the next.
    pub stride: i64,
    /// Pixels from one weight of the kernel to the next, before they are moved.
    pub dilation: i64,
    /// Groups of channels that do not see each other.
    pub groups: i64,
    /// The channels are split into this many groups that are moved separately.
    pub deformable_groups: i64,
    /// Whether version 2 has a bias; version 1 has none.
    pub bias: bool,
}

enum Deformable {
    Plain(DeformConv),
    Modulated(ModulatedDeformConv),
}

/// A deformable convolution with the ordinary one that predicts its offsets (`DFConv2d`).
///
/// The original cuts the predicted channels at 18 and 9 whatever the settings; here they are cut where the kernel and
/// the number of deformable groups say, which is the same where the original works.
pub struct DFConv2d {
    offset: Conv2d,
    conv: Deformable,
    offset_channels: i64,
    /// For each value of the result.
    multiply_adds: usize,
}

impl DFConv2d {
    /// Parameters below `offset` (with a bias) and `conv`. The size is kept at stride 1.
    pub fn new(path: &ParamPath, in_channels: i64, out_channels: i64, kernel_size: i64, config: DFConvConfig) -> Self {
        let padding = config.dilation * (kernel_size - 1) / 2;
        let positions = config.deformable_groups * kernel_size * kernel_size;
        let offset = ConvConfig {
            stride: config.stride,
            padding,
            dilation: config.dilation,
            weight_init: Init::KaimingUniform { a: 1.0 },
            bias_init: Some(Init::Const(0.0)),
            ..ConvConfig::default()
        };
        let predicted = positions * if config.modulated { 3 } else { 2 };
        let offset = Conv2d::new(&path.sub("offset"), in_channels, predicted, kernel_size, offset);
        let geometry = DeformConvGeometry {
            stride: (config.stride, config.stride),
            padding: (padding, padding),
            dilation: (config.dilation, config.dilation),
            groups: config.groups,
            deformable_groups: config.deformable_groups,
        };
        let (path, kernel) = (path.sub("conv"), (kernel_size, kernel_size));
        let conv = if config.modulated {
            let conv = ModulatedDeformConv::new(&path, in_channels, out_channels, kernel, geometry, config.bias);
            Deformable::Modulated(conv)
        } else {
            Deformable::Plain(DeformConv::new(&path, in_channels, out_channels, kernel, geometry))
        };
        let multiply_adds = (in_channels / config.groups * kernel_size * kernel_size) as usize;
        Self { offset, conv, offset_channels: 2 * positions, multiply_adds }
    }

    /// # Shapes
    /// `[N, in, H, W]` to `[N, out, H', W']`; `N` may be 0.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let predicted = self.offset.forward(x);
        let y = match &self.conv {
            Deformable::Plain(conv) => conv.forward(x, &predicted),
            Deformable::Modulated(conv) => {
                let offset = predicted.narrow(1, 0, self.offset_channels);
                let mask = predicted.narrow(1, self.offset_channels, self.offset_channels / 2).sigmoid();
                conv.forward(x, &offset, &mask)
            }
        };
        flops::record(y.numel(), self.multiply_adds);
        y
    }
}

/// What [`interpolate`] resizes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    /// Height and width in pixels.
    To(i64, i64),
    /// Factors of height and width; the new size is rounded down.
    Scale(f64, f64),
}

/// How [`interpolate`] finds values between pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterpolateMode {
    /// The value of the pixel in which a position lies. (Mixed precision makes this float32;
    /// [`ffi::upsample_nearest`] keeps the type.)
    Nearest,
    /// Weighted between the four pixels around a position.
    Bilinear {
        /// Whether the outermost pixel centres of input and output coincide, rather than the outer edges.
        align_corners: bool,
    },
}

/// Resizes maps, as `torch.nn.functional.interpolate` does when it is given a size or a factor.
///
/// # Shapes
/// `[N, C, H, W]` to `[N, C, H', W']`; `N` may be 0.
pub fn interpolate(input: &Tensor, size: Size, mode: InterpolateMode) -> Tensor {
    let (output, scales) = match size {
        Size::To(height, width) => ([height, width], (None, None)),
        Size::Scale(y, x) => {
            let (_, _, height, width) = input.size4().expect("interpolate takes [N, C, H, W]");
            let scaled = |length: i64, factor: f64| (length as f64 * factor).floor() as i64;
            ([scaled(height, y), scaled(width, x)], (Some(y), Some(x)))
        }
    };
    if input.numel() == 0 {
        // libtorch refuses empty batches here; the sum keeps the result in the graph.
        let (batch, channels, _, _) = input.size4().expect("interpolate takes [N, C, H, W]");
        return input.sum(input.kind()).expand([batch, channels, output[0], output[1]], false);
    }
    match mode {
        InterpolateMode::Nearest => input.upsample_nearest2d(output, scales.0, scales.1),
        InterpolateMode::Bilinear { align_corners } => {
            input.upsample_bilinear2d(output, align_corners, scales.0, scales.1)
        }
    }
}

#[cfg(test)]
mod tests;
