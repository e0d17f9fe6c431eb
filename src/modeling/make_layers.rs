//! The small combinations of layers that heads and pyramids are made of (`modeling/make_layers.py`).
//!
//! As in the original, a convolution or linear layer alone keeps its parameters at the path given, and together with a
//! norm or a ReLU it is entry 0 (the norm entry 1) of a sequence at that path.

use anyhow::{ensure, Result};
use tch::Tensor;

use crate::config::Config;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, GroupNorm, Init, Linear, LinearConfig, Norm, ParamPath};

/// The `MODEL.GROUP_NORM` section: either a number of groups or a number of channels per group, the other being -1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormSettings {
    /// Channels per group, or -1.
    pub dim_per_gp: i64,
    /// Number of groups, or -1.
    pub num_groups: i64,
    /// Added to the variance.
    pub epsilon: f64,
}

impl From<&Config> for GroupNormSettings {
    fn from(cfg: &Config) -> Self {
        let section = &cfg.model.group_norm;
        Self { dim_per_gp: section.dim_per_gp, num_groups: section.num_groups, epsilon: section.epsilon }
    }
}

impl GroupNormSettings {
    /// The settings when `use_gn` asks for group norm.
    pub fn when(use_gn: bool, cfg: &Config) -> Option<Self> {
        use_gn.then(|| Self::from(cfg))
    }

    /// The number of groups that `channels` channels are split into.
    ///
    /// # Errors
    /// Both or neither of the two keys are given, or the channels do not divide evenly.
    pub fn groups(&self, channels: i64) -> Result<i64> {
        ensure!(
            self.dim_per_gp == -1 || self.num_groups == -1,
            "MODEL.GROUP_NORM: DIM_PER_GP is {} and NUM_GROUPS is {}; set one of them to -1",
            self.dim_per_gp,
            self.num_groups
        );
        let (key, divisor) =
            if self.dim_per_gp > 0 { ("DIM_PER_GP", self.dim_per_gp) } else { ("NUM_GROUPS", self.num_groups) };
        ensure!(divisor > 0, "MODEL.GROUP_NORM: neither DIM_PER_GP nor NUM_GROUPS is positive");
        ensure!(channels % divisor == 0, "MODEL.GROUP_NORM.{key} {divisor} does not divide {channels} channels");
        Ok(if self.dim_per_gp > 0 { channels / divisor } else { divisor })
    }
}

/// A group norm over `channels` channels.
///
/// # Errors
/// The settings do not fit the number of channels.
pub fn group_norm(path: &ParamPath, channels: i64, settings: &GroupNormSettings) -> Result<GroupNorm> {
    Ok(GroupNorm::new(path, settings.groups(channels)?, channels, settings.epsilon))
}

/// The choices of [`make_conv3x3`].
#[derive(Clone, Copy, Debug)]
pub struct Conv3x3 {
    /// Pixels from one weight to the next; also the padding.
    pub dilation: i64,
    /// Pixels from one position to the next.
    pub stride: i64,
    /// The norm after the convolution, which then has no bias.
    pub group_norm: Option<GroupNormSettings>,
    /// Whether a ReLU comes last.
    pub relu: bool,
    /// `kaiming_normal_` (fan-out) if set, else normal with a deviation of 0.01.
    pub kaiming_init: bool,
}

impl Default for Conv3x3 {
    fn default() -> Self {
        Self { dilation: 1, stride: 1, group_norm: None, relu: false, kaiming_init: true }
    }
}

/// A 3×3 convolution that keeps the size at stride 1, with optional group norm and ReLU.
///
/// # Errors
/// The group norm does not fit the number of channels.
pub fn make_conv3x3(path: &ParamPath, in_channels: i64, out_channels: i64, options: Conv3x3) -> Result<ConvNorm> {
    let weight_init =
        if options.kaiming_init { Init::KaimingNormalFanOut } else { Init::Normal { mean: 0.0, std: 0.01 } };
    let config = ConvConfig {
        stride: options.stride,
        padding: options.dilation,
        dilation: options.dilation,
        weight_init,
        ..ConvConfig::default()
    };
    conv_group_norm_relu(path, in_channels, out_channels, 3, config, options.group_norm, options.relu)
}

/// The choices of [`conv_with_kaiming_uniform`].
#[derive(Clone, Copy, Debug)]
pub struct ConvKaimingUniform {
    /// Side of the kernel.
    pub kernel_size: i64,
    /// Pixels from one position to the next.
    pub stride: i64,
    /// Pixels from one weight to the next.
    pub dilation: i64,
    /// The norm after the convolution, which then has no bias.
    pub group_norm: Option<GroupNormSettings>,
    /// Whether a ReLU comes last.
    pub relu: bool,
}

impl Default for ConvKaimingUniform {
    fn default() -> Self {
        Self { kernel_size: 3, stride: 1, dilation: 1, group_norm: None, relu: false }
    }
}

/// A convolution with Caffe2's XavierFill (`kaiming_uniform_` with `a = 1`) that keeps the size at stride 1, with
/// optional group norm and ReLU: the block of the feature pyramid.
///
/// # Errors
/// The group norm does not fit the number of channels.
pub fn conv_with_kaiming_uniform(
    path: &ParamPath,
    in_channels: i64,
    out_channels: i64,
    options: ConvKaimingUniform,
) -> Result<ConvNorm> {
    let config = ConvConfig {
        stride: options.stride,
        padding: options.dilation * (options.kernel_size - 1) / 2,
        dilation: options.dilation,
        weight_init: Init::KaimingUniform { a: 1.0 },
        ..ConvConfig::default()
    };
    let kernel_size = options.kernel_size;
    conv_group_norm_relu(path, in_channels, out_channels, kernel_size, config, options.group_norm, options.relu)
}

fn conv_group_norm_relu(
    path: &ParamPath,
    in_channels: i64,
    out_channels: i64,
    kernel_size: i64,
    config: ConvConfig,
    settings: Option<GroupNormSettings>,
    relu: bool,
) -> Result<ConvNorm> {
    let config = ConvConfig { bias: settings.is_none(), bias_init: Some(Init::Const(0.0)), ..config };
    let alone = settings.is_none() && !relu;
    let conv_path = if alone { path.clone() } else { path.sub(0) };
    let conv = Conv2d::new(&conv_path, in_channels, out_channels, kernel_size, config);
    let norm = settings.map(|s| group_norm(&path.sub(1), out_channels, &s)).transpose()?;
    Ok(ConvNorm::new(conv, norm.map(Norm::Group), relu))
}

/// A fully connected layer with an optional group norm.
#[derive(Debug)]
pub struct Fc {
    /// The linear layer.
    pub linear: Linear,
    /// The norm after it.
    pub norm: Option<GroupNorm>,
}

impl Fc {
    /// # Shapes
    /// `[N, in]` to `[N, out]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let y = self.linear.forward(x);
        match &self.norm {
            Some(norm) => norm.forward(&y),
            None => y,
        }
    }
}

/// A fully connected layer with Caffe2's XavierFill, with an optional group norm (and then no bias).
///
/// # Errors
/// The group norm does not fit the number of channels.
pub fn make_fc(path: &ParamPath, dim_in: i64, hidden_dim: i64, settings: Option<GroupNormSettings>) -> Result<Fc> {
    let config = LinearConfig {
        bias: settings.is_none(),
        weight_init: Init::KaimingUniform { a: 1.0 },
        bias_init: Some(Init::Const(0.0)),
    };
    let linear_path = if settings.is_some() { path.sub(0) } else { path.clone() };
    let linear = Linear::new(&linear_path, dim_in, hidden_dim, config);
    let norm = settings.map(|s| group_norm(&path.sub(1), hidden_dim, &s)).transpose()?;
    Ok(Fc { linear, norm })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Parameters;
    use tch::Device;

    #[test]
    fn groups_follow_the_key_that_is_set() {
        let by_number = GroupNormSettings { dim_per_gp: -1, num_groups: 32, epsilon: 1e-5 };
        assert_eq!(by_number.groups(64).unwrap(), 32);
        assert!(by_number.groups(48).unwrap_err().to_string().contains("NUM_GROUPS 32 does not divide 48"));
        let by_size = GroupNormSettings { dim_per_gp: 16, num_groups: -1, epsilon: 1e-5 };
        assert_eq!(by_size.groups(64).unwrap(), 4);
        assert!(GroupNormSettings { num_groups: 4, ..by_size }.groups(64).is_err());
        assert!(GroupNormSettings { dim_per_gp: -1, ..by_size }.groups(64).is_err());
    }

    #[test]
    fn names_are_those_of_a_sequence_only_with_company() {
        let names = |build: &dyn Fn(&ParamPath)| {
            let parameters = Parameters::uninitialised(Device::Cpu);
            build(&parameters.root().sub("m"));
            parameters.state().into_iter().map(|e| e.name).collect::<Vec<_>>()
        };
        let settings = Some(GroupNormSettings { dim_per_gp: -1, num_groups: 2, epsilon: 1e-5 });
        let conv = |group_norm, relu| {
            names(&move |path| {
                make_conv3x3(path, 4, 4, Conv3x3 { group_norm, relu, ..Conv3x3::default() }).unwrap();
            })
        };
        assert_eq!(conv(None, false), ["m.weight", "m.bias"]);
        assert_eq!(conv(None, true), ["m.0.weight", "m.0.bias"]);
        assert_eq!(conv(settings, false), ["m.0.weight", "m.1.weight", "m.1.bias"]);
        let fc = |settings| {
            names(&move |path| {
                make_fc(path, 4, 4, settings).unwrap();
            })
        };
        assert_eq!(fc(None), ["m.weight", "m.bias"]);
        assert_eq!(fc(settings), ["m.0.weight", "m.1.weight", "m.1.bias"]);
    }
}
