//! Mixed precision: which number formats a model computes in.

use std::str::FromStr;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::Kept;
use crate::config::registry::unknown_name;
use crate::ffi::{self, Autocast};

/// The values of `DTYPE`. Weights, losses, boxes and everything that selects boxes are float32 in all of them; with the
/// shorter two, convolutions and matrix products compute in 16 bits (apex's level O1, which libtorch calls autocast).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits of mantissa everywhere.
    Float32,
    /// 11 bits of mantissa, numbers up to 65504. Small gradients vanish in it, so that the loss has to be scaled.
    Float16,
    /// 8 bits of mantissa and the range of float32.
    BFloat16,
}

impl Precision {
    /// Makes convolutions and matrix products on `device` compute in this precision for as long as the result lives;
    /// nothing happens for float32.
    ///
    /// # Errors
    /// Half precision on a device that is neither the CPU nor CUDA.
    pub fn autocast(self, device: Device) -> Result<Option<Autocast>> {
        match self {
            Self::Float32 => Ok(None),
            Self::Float16 => Autocast::enter(device, Kind::Half).map(Some),
            Self::BFloat16 => Autocast::enter(device, Kind::BFloat16).map(Some),
        }
    }
}

impl FromStr for Precision {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "float32" => Ok(Self::Float32),
            "float16" => Ok(Self::Float16),
            "bfloat16" => Ok(Self::BFloat16),
            _ => Err(unknown_name("DTYPE", name, ["float32", "float16", "bfloat16"])),
        }
    }
}

/// The tensor in at least float32: what mixed precision has computed in 16 bits is converted, so that losses, boxes and
/// scores are not.
pub fn full_precision(tensor: &Tensor) -> Tensor {
    match tensor.kind() {
        Kind::Half | Kind::BFloat16 => tensor.to_kind(Kind::Float),
        _ => tensor.shallow_clone(),
    }
}

/// What a pooling kernel takes: those of the CPU know no 16-bit types.
pub(super) fn full_precision_on_cpu(tensor: &Tensor) -> Tensor {
    match tensor.device() {
        Device::Cpu => full_precision(tensor),
        _ => tensor.shallow_clone(),
    }
}

/// A weight in the type that it is used in.
///
/// In training that is what [`Autocast::cast_ahead`] has made of it. In inference on CUDA, where weights stay the same
/// for many batches, its own cast is kept: one more copy in 16 bits, instead of a kernel for each weight and batch.
#[derive(Debug, Default)]
pub(super) struct KeptCast(Kept<Tensor>);

impl KeptCast {
    /// For a convolution or matrix product of `x`.
    pub(super) fn of(&self, weight: &Tensor, x: &Tensor) -> Tensor {
        if ffi::is_grad_enabled() {
            // The optimizer will change it.
            self.0.clear();
            return ffi::cast_of(weight);
        }
        match x.device() {
            Device::Cuda(_) => self.up_to_date(weight, x),
            _ => weight.shallow_clone(),
        }
    }

    fn up_to_date(&self, weight: &Tensor, x: &Tensor) -> Tensor {
        if ffi::is_ready_for_conv(x, weight) {
            self.0.clear();
            return weight.shallow_clone();
        }
        let cast = || ffi::ready_for_conv(x, weight).expect("a weight on the input's device");
        self.0.get_or_make(&[weight], |cast| ffi::is_ready_for_conv(x, cast), cast).shallow_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_an_error_that_names_the_known_ones() {
        assert_eq!("bfloat16".parse::<Precision>().unwrap(), Precision::BFloat16);
        let error = "half".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("DTYPE") && error.contains("bfloat16, float16, float32"), "{error}");
    }

    #[test]
    fn a_cast_is_kept_until_its_weight_changes() {
        let (mut weight, x) =
            (Tensor::ones([2, 2], (Kind::Float, Device::Cpu)), Tensor::ones([1, 2], (Kind::Float, Device::Cpu)));
        let kept = KeptCast::default();
        let _no_grad = tch::no_grad_guard();
        let place = |tensor: Tensor| (tensor.kind(), tensor.data_ptr());
        assert_eq!(place(kept.up_to_date(&weight, &x)), (Kind::Float, weight.data_ptr()));
        let autocast = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        let first = place(kept.up_to_date(&weight, &x));
        assert_eq!((first.0, place(kept.up_to_date(&weight, &x))), (Kind::BFloat16, first));
        let _ = weight.fill_(3.0);
        assert_eq!(kept.up_to_date(&weight, &x).to_kind(Kind::Float), weight);
        // On the CPU libtorch casts by itself.
        assert_eq!(place(kept.of(&weight, &x)), (Kind::Float, weight.data_ptr()));
        drop(autocast);
        assert_eq!(kept.up_to_date(&weight, &x).kind(), Kind::Float);
        assert!(kept.0.is_empty());
    }

    #[test]
    fn only_short_types_are_converted() {
        let of = |kind| full_precision(&Tensor::ones([1], (kind, Device::Cpu))).kind();
        assert_eq!([Kind::Half, Kind::BFloat16, Kind::Float].map(of), [Kind::Float; 3]);
        assert_eq!([Kind::Double, Kind::Int64].map(of), [Kind::Double, Kind::Int64]);
    }
}
