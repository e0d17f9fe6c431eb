//! Automatic mixed precision (`torch.autocast`).

use std::marker::PhantomData;

use anyhow::{bail, Result};
use tch::{Device, Kind, Tensor};

use super::{call, call_for_tensor, raw};

/// As long as it lives, this thread's convolutions and matrix products on a device compute in a shorter type, and what
/// libtorch counts as sensitive in float32. Casts of weights are kept until the outermost one ends, so that one within
/// another has to be of the same type.
#[must_use = "autocast ends when this is dropped"]
pub struct Autocast {
    before: raw::Autocast,
    /// The state belongs to the thread.
    _thread: PhantomData<*const ()>,
}

impl Autocast {
    /// Begins; `kind` is `Kind::Half` or `Kind::BFloat16`.
    ///
    /// # Errors
    /// Another kind, or a device that is neither the CPU nor CUDA.
    pub fn enter(device: Device, kind: Kind) -> Result<Self> {
        let cuda = match device {
            Device::Cpu => false,
            Device::Cuda(_) => true,
            other => bail!("there is no mixed precision on {other:?}"),
        };
        let bfloat16 = match kind {
            Kind::Half => false,
            Kind::BFloat16 => true,
            other => bail!("mixed precision computes in float16 or bfloat16, not in {other:?}"),
        };
        let mut before = raw::Autocast { cuda, enabled: false, dtype: 0 };
        // SAFETY: both pointers are valid for the call.
        call(|error| unsafe { raw::mrb_autocast_enter(error, &mut before, cuda, bfloat16) })?;
        Ok(Self { before, _thread: PhantomData })
    }

    /// Casts weights ahead of their use, many with one kernel, and later their gradients back in the same way, instead
    /// of each by itself; [`cast_of`] gives the casts. The values are the same. They are kept as long as those that
    /// libtorch makes itself. Without gradients nothing happens.
    ///
    /// # Errors
    /// A weight that is not float32, or on another device than the first.
    pub fn cast_ahead(&self, weights: &[Tensor]) -> Result<()> {
        let weights: Vec<_> = weights.iter().map(Tensor::as_ptr).collect();
        // SAFETY: the handles come from live borrowed tensors, the error from `call`.
        call(|error| unsafe { raw::mrb_cast_weights(error, weights.as_ptr(), weights.len()) })
    }
}

/// What [`Autocast::cast_ahead`] has made of a weight, or the weight itself.
pub fn cast_of(weight: &Tensor) -> Tensor {
    let weight = weight.as_ptr();
    // SAFETY: the handle comes from a live borrowed tensor, the error and output from `call_for_tensor`.
    let cast = call_for_tensor(|error, output| unsafe { raw::mrb_cast_of(error, output, weight) });
    cast.expect("looking a tensor up cannot fail")
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: both pointers are valid for the call, which ends what `enter` began in this thread. Setting the
        // thread's state cannot fail.
        let _ = call(|error| unsafe { raw::mrb_autocast_leave(error, &self.before) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi;

    #[test]
    fn products_are_cast_as_long_as_it_lives_and_gradients_come_back_in_float32() {
        let weight = Tensor::ones([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let x = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        {
            let _outer = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            assert_eq!(x.matmul(&weight).kind(), Kind::BFloat16);
            {
                let _inner = Autocast::enter(Device::Cpu, Kind::Half).unwrap();
                assert_eq!(x.matmul(&x).kind(), Kind::Half);
            }
            let y = x.matmul(&weight);
            assert_eq!(y.kind(), Kind::BFloat16);
            y.sum(Kind::Float).backward();
        }
        assert_eq!(x.matmul(&weight).kind(), Kind::Float);
        assert_eq!(weight.grad(), Tensor::full([2, 2], 2.0, (Kind::Float, Device::Cpu)));
    }

    #[test]
    fn a_weight_that_has_changed_is_cast_anew() {
        let mut weight = Tensor::ones([1, 1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let x = Tensor::ones([1, 1], (Kind::Float, Device::Cpu));
        for value in [1.0, 2.0] {
            let _ = tch::no_grad(|| weight.fill_(value));
            let _autocast = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            assert_eq!(x.matmul(&weight).double_value(&[0, 0]), value);
        }
    }

    /// One weight is used twice, one never, and together they are more than one group.
    #[test]
    fn casts_ahead_of_use_change_nothing() {
        let _generator = crate::utils::testing::generator();
        tch::manual_seed(4);
        let draw = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let weights = [[64, 64], [64, 64], [64, 120_000]].map(|shape| draw(&shape).set_requires_grad(true));
        let unused = draw(&[3, 3]).set_requires_grad(true);
        let x = draw(&[5, 64]);
        let run = |ahead: bool| {
            let autocast = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            if ahead {
                let all: Vec<_> = weights.iter().chain([&unused]).map(Tensor::shallow_clone).collect();
                autocast.cast_ahead(&all).unwrap();
            }
            let [a, b, c] = weights.each_ref().map(cast_of);
            assert_eq!(a.kind(), if ahead { Kind::BFloat16 } else { Kind::Float });
            let y = x.matmul(&a).matmul(&b).matmul(&a).matmul(&c);
            drop(autocast);
            assert_eq!(cast_of(&weights[0]).kind(), Kind::Float);
            y.square().sum(Kind::Float).backward();
            let gradients = weights.each_ref().map(|weight| weight.grad().copy());
            ffi::clear_gradients(weights.iter()).unwrap();
            (y, gradients)
        };
        let ((expected, expected_gradients), (y, gradients)) = (run(false), run(true));
        assert!(y == expected && gradients == expected_gradients);
        assert!(gradients[0].abs().sum(Kind::Float).double_value(&[]) > 0.0 && !unused.grad().defined());

        let no_grad = tch::no_grad_guard();
        let autocast = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        autocast.cast_ahead(&[weights[0].shallow_clone()]).unwrap();
        assert_eq!(cast_of(&weights[0]).kind(), Kind::Float);
        assert!(!ffi::is_grad_enabled());
        drop(no_grad);
        assert!(ffi::is_grad_enabled() && autocast.cast_ahead(&[weights[0].to_kind(Kind::Double)]).is_err());
    }

    /// Processes average the gradients of a group while those of earlier layers are computed.
    #[test]
    fn gradients_of_a_group_come_as_soon_as_they_are_computed() {
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
        // More than one group.
        let [first, last] = [[8, 64], [64, 120_000]].map(|shape| ones(&shape).set_requires_grad(true));
        let autocast = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        autocast.cast_ahead(&[first.shallow_clone(), last.shallow_clone()]).unwrap();
        let mut hidden = ones(&[1, 8]).matmul(&cast_of(&first)).tanh();
        let loss = (&hidden * 1.0).matmul(&cast_of(&last)).sum(Kind::Float);
        drop(autocast);
        // The backward pass ends at tanh with an error.
        let _ = tch::no_grad(|| hidden.zero_());
        assert!(loss.f_backward().unwrap_err().to_string().contains("inplace operation"));
        assert!(last.grad().defined() && !first.grad().defined());
    }

    #[test]
    fn other_types_are_errors() {
        assert!(Autocast::enter(Device::Cpu, Kind::Float).is_err());
        assert!(Autocast::enter(Device::Mps, Kind::Half).is_err());
    }
}
