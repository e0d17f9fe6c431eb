//! A convolution, the norm after it and the ReLU after that, as one step.
//!
//! The three are kept together, so that inference on the CPU can fold the norm into the convolution and fuse the ReLU
//! without the models knowing. Each part keeps the name that the original gives it.

use tch::Tensor;

use super::{Conv2d, Norm};
use crate::ffi;

/// Convolution, optional norm, optional ReLU.
#[derive(Debug)]
pub struct ConvNorm {
    /// The convolution.
    pub conv: Conv2d,
    /// The norm after it.
    pub norm: Option<Norm>,
    /// Whether a ReLU comes last.
    pub relu: bool,
}

impl ConvNorm {
    /// Puts the three together.
    pub fn new(conv: Conv2d, norm: Option<Norm>, relu: bool) -> Self {
        Self { conv, norm, relu }
    }

    /// `train` only matters to batch norm.
    ///
    /// # Shapes
    /// `[N, in, H, W]` to `[N, out, H', W']`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.forward_with(x, None, self.relu, train)
    }

    /// The end of a residual block: convolution and norm, plus `identity`, then ReLU (whatever `relu` says).
    ///
    /// # Shapes
    /// `[N, in, H, W]` and `[N, out, H', W']` to `[N, out, H', W']`.
    pub fn forward_residual(&self, x: &Tensor, identity: &Tensor, train: bool) -> Tensor {
        self.forward_with(x, Some(identity), true, train)
    }

    fn forward_with(&self, x: &Tensor, residual: Option<&Tensor>, relu: bool, train: bool) -> Tensor {
        self.fused(x, residual, relu, train).unwrap_or_else(|| {
            let y = self.conv.forward(x);
            Norm::finish(self.norm.as_ref(), y, residual, relu, train)
        })
    }

    /// Everything as one convolution, where no gradient is wanted and the norm is a factor and a summand per channel.
    ///
    /// The weights are folded anew each time: that costs about a hundredth of the convolution on a large image, and
    /// nothing has to notice when weights change.
    fn fused(&self, x: &Tensor, residual: Option<&Tensor>, relu: bool, train: bool) -> Option<Tensor> {
        if train || !ffi::can_fuse_conv(x) {
            return None;
        }
        let (scale, shift) = match &self.norm {
            None => {
                return Some(self.conv.forward_fused(x, &self.conv.weight, self.conv.bias.as_ref(), residual, relu))
            }
            Some(Norm::Frozen(norm)) => norm.scale_and_shift(),
            Some(Norm::Batch(norm)) => norm.scale_and_shift(),
            Some(Norm::Group(_)) => return None,
        };
        let weight = &self.conv.weight * scale.view([-1, 1, 1, 1]);
        let bias = match &self.conv.bias {
            Some(bias) => bias * scale + shift,
            None => shift,
        };
        Some(self.conv.forward_fused(x, &weight, Some(&bias), residual, relu))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::gradcheck::random;
    use crate::layers::{BatchNorm2d, ConvConfig, FrozenBatchNorm2d, GroupNorm, ParamPath, Parameters};
    use crate::utils::testing::generator;
    use tch::{Device, Kind};

    fn norm(kind: usize, path: &ParamPath) -> Option<Norm> {
        match kind {
            0 => None,
            1 => Some(Norm::Frozen(FrozenBatchNorm2d::new(path, 8))),
            2 => Some(Norm::Batch(BatchNorm2d::new(path, 8))),
            _ => Some(Norm::Group(GroupNorm::new(path, 2, 8, 1e-5))),
        }
    }

    /// With gradients on the parts run one by one, without them fused: the values are the same.
    #[test]
    fn fused_inference_equals_the_parts() {
        let _generator = generator();
        let float = |shape: &[i64], seed| random(shape, seed).to_kind(Kind::Float);
        for kind in 0..4 {
            for (stride, groups, bias, relu) in [(1, 1, false, true), (2, 2, true, true), (1, 4, true, false)] {
                let parameters = Parameters::new(Device::Cpu);
                let path = parameters.root();
                let config = ConvConfig { stride, groups, bias, padding: 1, ..ConvConfig::default() };
                let conv = Conv2d::new(&path.sub("conv"), 8, 8, 3, config);
                let layer = ConvNorm::new(conv, norm(kind, &path.sub("norm")), relu);
                let norm_values = parameters.state().into_iter().filter(|e| e.name.starts_with("norm"));
                for (seed, entry) in (1..).zip(norm_values.filter(|e| e.tensor.kind() == Kind::Float)) {
                    // Positive, as variances have to be.
                    let values = float(&entry.tensor.size(), seed).abs() + 0.5;
                    tch::no_grad(|| entry.tensor.shallow_clone().copy_(&values));
                }

                let x = float(&[2, 8, 9, 7], 50);
                assert!(!ffi::can_fuse_conv(&x));
                let identity = float(&layer.forward(&x, false).size(), 51);
                let plain = (layer.forward(&x, false), layer.forward_residual(&x, &identity, false));
                let _no_grad = tch::no_grad_guard();
                assert_eq!(layer.fused(&x, None, relu, false).is_some(), kind < 3);
                for (x, identity) in [
                    (x.shallow_clone(), identity.shallow_clone()),
                    (ffi::channels_last(&x), ffi::channels_last(&identity)),
                ] {
                    let fused = layer.forward(&x, false);
                    assert!((&fused - &plain.0).abs().max().double_value(&[]) < 1e-5);
                    let fused = layer.forward_residual(&x, &identity, false);
                    assert!((&fused - &plain.1).abs().max().double_value(&[]) < 1e-5);
                }
            }
        }
    }
}
