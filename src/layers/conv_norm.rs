//! A convolution, the norm after it and the ReLU after that, as one step.
//!
//! The three are kept together, so that inference can fold the norm into the convolution and fuse the ReLU without the
//! models knowing. Each part keeps the name that the original gives it.

use std::cell::RefMut;

use tch::Tensor;

use super::{Conv2d, Kept, Norm};
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
    /// On CUDA, what [`folded`](Self::folded) gave last.
    kept: Kept<Ready>,
}

/// Weights with the norm in them.
#[derive(Debug)]
struct Folded {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Folded weights in the type that is computed in: one more copy of the weights, in 16 bits half as large as they are.
#[derive(Debug)]
struct Ready {
    folded: Folded,
    /// The bias as it was before, for a pass after the convolution.
    shift: Option<Tensor>,
}

impl ConvNorm {
    /// Puts the three together.
    pub fn new(conv: Conv2d, norm: Option<Norm>, relu: bool) -> Self {
        Self { conv, norm, relu, kept: Kept::default() }
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

    /// What [`forward`](Self::forward) gives, plus `addend`: where there is no ReLU between the two, in one step.
    ///
    /// # Shapes
    /// `[N, in, H, W]` and `[N, out, H', W']` to `[N, out, H', W']`.
    pub fn forward_plus(&self, x: &Tensor, addend: &Tensor, train: bool) -> Tensor {
        if self.relu {
            self.forward(x, train) + addend
        } else {
            self.forward_with(x, Some(addend), false, train)
        }
    }

    fn forward_with(&self, x: &Tensor, residual: Option<&Tensor>, relu: bool, train: bool) -> Tensor {
        self.fused(x, residual, relu, train).unwrap_or_else(|| match &self.norm {
            Some(norm) => norm.finish(self.conv.forward(x), residual, relu, train),
            None => self.conv.forward_then(x, residual, relu),
        })
    }

    /// Everything as one convolution, where no gradient is wanted and the norm is a factor and a summand per channel.
    fn fused(&self, x: &Tensor, residual: Option<&Tensor>, relu: bool, train: bool) -> Option<Tensor> {
        let possible = ffi::can_fuse_conv(x) && !matches!(self.norm, Some(Norm::Group(_)));
        // In training only what is frozen runs without gradients. On the CPU it has the original's bits, unfused.
        let of_frozen_part = x.device().is_cuda() && !matches!(self.norm, Some(Norm::Batch(_)));
        if !possible || train && !of_frozen_part {
            if train {
                // The optimizer will change the weights.
                self.kept.clear();
            }
            return None;
        }
        if !x.device().is_cuda() {
            // Folded anew each time: that costs about a hundredth of the convolution on a large image.
            let Folded { weight, bias } = self.folded();
            return Some(self.conv.forward_fused(x, &weight, bias.as_ref(), residual, relu));
        }
        // Each operator more has to be sent to the GPU, which takes longer than these small ones themselves.
        let ready = self.ready(x);
        let Ready { folded: Folded { weight, bias }, shift } = &*ready;
        Some(if relu {
            self.conv.forward_fused(x, weight, bias.as_ref(), residual, relu)
        } else {
            // cuDNN has no such operator without a ReLU.
            self.conv.forward_with(x, weight, shift.as_ref(), residual, relu)
        })
    }

    /// The kept weights, made anew where one of the tensors behind them has changed or `x` needs another type.
    fn ready(&self, x: &Tensor) -> RefMut<'_, Ready> {
        let fits = |ready: &Ready| ffi::is_ready_for_conv(x, &ready.folded.weight);
        self.kept.get_or_make(&self.sources(), fits, || {
            let Folded { weight, bias } = self.folded();
            let ready = |tensor: &Tensor| ffi::ready_for_conv(x, tensor).expect("weights on the input's device");
            Ready { folded: Folded { weight: ready(&weight), bias: bias.as_ref().map(ready) }, shift: bias }
        })
    }

    /// What [`folded`](Self::folded) is made of.
    fn sources(&self) -> Vec<&Tensor> {
        let of_norm = match &self.norm {
            Some(Norm::Frozen(norm)) => vec![&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var],
            Some(Norm::Batch(norm)) => vec![&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var],
            Some(Norm::Group(_)) | None => Vec::new(),
        };
        let of_conv = [Some(&self.conv.weight), self.conv.bias.as_ref()];
        of_conv.into_iter().flatten().chain(of_norm).collect()
    }

    /// The convolution's weight and bias times the norm's factor, and its summand in the bias. (There is no group
    /// norm.)
    fn folded(&self) -> Folded {
        let (scale, shift) = match &self.norm {
            Some(Norm::Frozen(norm)) => norm.scale_and_shift(),
            Some(Norm::Batch(norm)) => norm.scale_and_shift(),
            Some(Norm::Group(_)) | None => {
                let bias = self.conv.bias.as_ref().map(Tensor::shallow_clone);
                return Folded { weight: self.conv.weight.shallow_clone(), bias };
            }
        };
        let weight = &self.conv.weight * scale.view([-1, 1, 1, 1]);
        let bias = match &self.conv.bias {
            Some(bias) => bias * scale + shift,
            None => shift,
        };
        Folded { weight, bias: Some(bias) }
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

    #[test]
    fn kept_weights_are_made_anew_when_something_changes() {
        let _generator = generator();
        let _no_grad = tch::no_grad_guard();
        let x = random(&[1, 8, 5, 4], 3).to_kind(Kind::Float);
        for kind in 0..3 {
            let parameters = Parameters::new(Device::Cpu);
            let path = parameters.root();
            let conv = Conv2d::new(&path.sub("conv"), 8, 8, 3, ConvConfig::default());
            let layer = ConvNorm::new(conv, norm(kind, &path.sub("norm")), true);
            let check = || {
                let ready = layer.ready(&x);
                let Ready { folded: Folded { weight, bias }, shift } = &*ready;
                let now = layer.folded();
                assert!(*weight == now.weight && *bias == now.bias && *shift == now.bias, "norm {kind}");
                weight.data_ptr()
            };
            let first = check();
            assert_eq!(check(), first, "nothing has changed");
            for entry in parameters.state().into_iter().filter(|entry| entry.tensor.kind() == Kind::Float) {
                let _ = entry.tensor.shallow_clone().g_add_scalar_(0.5);
                check();
            }
            let double = x.to_kind(Kind::Double);
            assert_eq!(layer.ready(&double).folded.weight.kind(), Kind::Double);
            let _ = layer.forward(&x, true);
            assert!(layer.kept.is_empty(), "training changes weights");
        }
    }
}
