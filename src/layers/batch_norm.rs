//! Norms: batch norm with fixed statistics, batch norm, group norm.

use tch::Tensor;

use super::misc::add_and_rectify;
use super::{full_precision, Init, Kept, ParamPath};
use crate::ffi;

/// Batch norm whose statistics and affine parameters are fixed (`layers/batch_norm.py`).
///
/// There is no epsilon: the scale is `weight / sqrt(running_var)`.
#[derive(Debug)]
pub struct FrozenBatchNorm2d {
    /// Scale per channel, `[channels]`.
    pub weight: Tensor,
    /// Shift per channel, `[channels]`.
    pub bias: Tensor,
    /// Mean per channel, `[channels]`.
    pub running_mean: Tensor,
    /// Variance per channel, `[channels]`.
    pub running_var: Tensor,
    /// What [`scale_and_shift`](Self::scale_and_shift) gave last.
    folded: Kept<(Tensor, Tensor)>,
}

impl FrozenBatchNorm2d {
    /// Four buffers `[channels]`: `weight`, `bias`, `running_mean`, `running_var`; no `num_batches_tracked`.
    pub fn new(path: &ParamPath, channels: i64) -> Self {
        Self {
            weight: path.buffer("weight", &[channels], 1.0),
            bias: path.buffer("bias", &[channels], 0.0),
            running_mean: path.buffer("running_mean", &[channels], 0.0),
            running_var: path.buffer("running_var", &[channels], 1.0),
            folded: Kept::default(),
        }
    }

    /// The norm as one multiplication and one addition per channel: `(scale, shift)`, both `[channels]`.
    pub fn scale_and_shift(&self) -> (Tensor, Tensor) {
        // Half a dozen small operators that would be repeated for every batch.
        let sources = [&self.weight, &self.bias, &self.running_mean, &self.running_var];
        let make = || {
            let scale = &self.weight * self.running_var.rsqrt();
            let shift = &self.bias - &self.running_mean * &scale;
            (scale, shift)
        };
        let folded = self.folded.get_or_make(&sources, |_| true, make);
        (folded.0.shallow_clone(), folded.1.shallow_clone())
    }

    /// # Shapes
    /// `[N, C, H, W]` to the same.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.finish(x.copy(), None, false)
    }

    /// The norm of a convolution's result, plus `residual`, then ReLU, in one pass that overwrites the result's memory.
    /// The values are those of the single operators, bit for bit in float32; in 16 bits they are rounded once.
    ///
    /// # Shapes
    /// `y` and `residual` `[N, C, H, W]`, to the same.
    pub fn finish(&self, y: Tensor, residual: Option<&Tensor>, relu: bool) -> Tensor {
        let (scale, shift) = self.scale_and_shift();
        ffi::channel_affine(y, (Some(&scale), &shift), residual, relu).expect("maps and channels that fit")
    }
}

/// Batch norm with running statistics (`torch.nn.BatchNorm2d`, momentum 0.1, epsilon 1e-5).
#[derive(Debug)]
pub struct BatchNorm2d {
    /// Scale per channel, `[channels]`.
    pub weight: Tensor,
    /// Shift per channel, `[channels]`.
    pub bias: Tensor,
    /// Mean per channel, `[channels]`.
    pub running_mean: Tensor,
    /// Variance per channel, `[channels]`.
    pub running_var: Tensor,
    /// Batches seen in training, `[]`.
    pub num_batches_tracked: Tensor,
}

impl BatchNorm2d {
    /// Added to the variance.
    pub const EPSILON: f64 = 1e-5;
    const MOMENTUM: f64 = 0.1;

    /// Parameters `weight`, `bias` and buffers `running_mean`, `running_var` `[channels]`, `num_batches_tracked` `[]`.
    pub fn new(path: &ParamPath, channels: i64) -> Self {
        Self {
            weight: path.parameter("weight", &[channels], Init::Const(1.0)),
            bias: path.parameter("bias", &[channels], Init::Const(0.0)),
            running_mean: path.buffer("running_mean", &[channels], 0.0),
            running_var: path.buffer("running_var", &[channels], 1.0),
            num_batches_tracked: path.buffer_from("num_batches_tracked", &Tensor::from(0i64)),
        }
    }

    /// Inference as one multiplication and one addition per channel: `(scale, shift)`, both `[channels]`.
    pub fn scale_and_shift(&self) -> (Tensor, Tensor) {
        let scale = &self.weight * (&self.running_var + Self::EPSILON).rsqrt();
        let shift = &self.bias - &self.running_mean * &scale;
        (scale, shift)
    }

    /// With `train`, normalises with the statistics of the batch and moves the running ones towards them. An empty
    /// batch passes unchanged and leaves the statistics alone.
    ///
    /// # Shapes
    /// `[N, C, H, W]` to the same.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        if x.numel() == 0 {
            return x.shallow_clone();
        }
        if train {
            let _ = self.num_batches_tracked.shallow_clone().g_add_scalar_(1);
        }
        x.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            train,
            Self::MOMENTUM,
            Self::EPSILON,
            true,
        )
    }
}

/// Group norm (`torch.nn.GroupNorm`), Wu & He 2018.
#[derive(Debug)]
pub struct GroupNorm {
    /// Scale per channel, `[channels]`.
    pub weight: Tensor,
    /// Shift per channel, `[channels]`.
    pub bias: Tensor,
    num_groups: i64,
    eps: f64,
}

impl GroupNorm {
    /// Parameters `weight` and `bias` `[channels]`.
    pub fn new(path: &ParamPath, num_groups: i64, channels: i64, eps: f64) -> Self {
        Self {
            weight: path.parameter("weight", &[channels], Init::Const(1.0)),
            bias: path.parameter("bias", &[channels], Init::Const(0.0)),
            num_groups,
            eps,
        }
    }

    /// # Shapes
    /// `[N, C, ...]` to the same, in float32 if it was half or bfloat16.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if x.numel() == 0 {
            return x.shallow_clone();
        }
        // In float32, as apex and libtorch on CUDA have it. libtorch's channels-last group norm loses digits. What has
        // to be laid out anew is so before it becomes twice as large.
        full_precision(&x.contiguous()).group_norm(
            self.num_groups,
            Some(&self.weight),
            Some(&self.bias),
            self.eps,
            true,
        )
    }
}

/// Any of the norms a convolution may be followed by.
#[derive(Debug)]
pub enum Norm {
    /// Fixed statistics.
    Frozen(FrozenBatchNorm2d),
    /// Statistics of the batch in training.
    Batch(BatchNorm2d),
    /// Statistics of groups of channels of each image.
    Group(GroupNorm),
}

impl Norm {
    /// # Shapes
    /// `[N, C, H, W]` to the same.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        match self {
            Norm::Frozen(norm) => norm.forward(x),
            Norm::Batch(norm) => norm.forward(x, train),
            Norm::Group(norm) => norm.forward(x),
        }
    }

    /// What comes after a convolution: the norm, plus `residual`, then ReLU. Overwrites `y` where it can.
    ///
    /// # Shapes
    /// `y` and `residual` `[N, C, H, W]`, to the same.
    pub fn finish(&self, y: Tensor, residual: Option<&Tensor>, relu: bool, train: bool) -> Tensor {
        match self {
            Norm::Frozen(norm) => norm.finish(y, residual, relu),
            norm => add_and_rectify(norm.forward(&y, train), residual, relu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::channels_last;
    use crate::layers::gradcheck::{gradcheck, random};
    use crate::layers::Parameters;
    use tch::{Device, Kind};

    /// The norm's constants, a map and a residual for it, all drawn.
    fn drawn(channels: i64, shape: [i64; 4], kind: Kind) -> (FrozenBatchNorm2d, Tensor, Tensor) {
        let norm = FrozenBatchNorm2d::new(&Parameters::new(Device::Cpu).root(), channels);
        for (seed, buffer) in (1..).zip([&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var]) {
            // Variances are positive.
            let values = random(&[channels], seed);
            buffer.shallow_clone().copy_(&if seed == 4 { values.abs() + 0.1 } else { values });
        }
        (norm, random(&shape, 5).to_kind(kind), random(&shape, 6).to_kind(kind))
    }

    #[test]
    fn one_pass_gives_the_bits_of_the_single_operators() {
        let (norm, x, residual) = drawn(5, [2, 5, 13, 9], Kind::Float);
        let (scale, shift) = norm.scale_and_shift();
        let factors = random(&x.size(), 7).to_kind(Kind::Float);
        for choice in 0..8 {
            let (relu, adds) = (choice & 1 != 0, choice & 2 != 0);
            let format = if choice & 4 != 0 { channels_last } else { Tensor::copy };
            let leaves = [format(&x).set_requires_grad(true), format(&residual).set_requires_grad(adds)];
            // A convolution's result stands at the beginning; overwriting a leaf is refused.
            let result = || &leaves[0] * 2.0;
            let added = adds.then_some(&leaves[1]);
            let mut want = result() * scale.view([1, -1, 1, 1]) + shift.view([1, -1, 1, 1]);
            if let Some(added) = added {
                want += added;
            }
            if relu {
                want = want.relu();
            }
            let got = norm.finish(result(), added, relu);
            assert!(got.equal(&want), "relu {relu}, residual {adds}");
            let inputs = &leaves[..if adds { 2 } else { 1 }];
            let gradients = |y: &Tensor| Tensor::run_backward(&[(y * &factors).sum(Kind::Float)], inputs, false, false);
            for (got, want) in gradients(&got).iter().zip(gradients(&want)) {
                assert!(got.equal(&want), "gradients, relu {relu}, residual {adds}");
            }
        }
    }

    #[test]
    fn gradients_of_the_one_pass_equal_finite_differences() {
        let (norm, x, residual) = drawn(3, [1, 3, 2, 4], Kind::Double);
        gradcheck(|t| norm.finish(&t[0] * 1.0, Some(&t[1]), true), &[&x, &residual]);
        gradcheck(|t| norm.finish(&t[0] * 1.0, None, false), &[&x]);
    }

    #[test]
    fn in_16_bits_the_one_pass_rounds_once() {
        for (kind, rounding) in [(Kind::Half, 0.5f64.powi(11)), (Kind::BFloat16, 0.5f64.powi(8))] {
            let (norm, x, residual) = drawn(4, [1, 4, 7, 5], kind);
            let single = |t: &Tensor| t.to_kind(Kind::Float);
            let want = norm.finish(single(&x), Some(&single(&residual)), true);
            // The residual may come in another type, as after a group norm.
            for residual in [residual.shallow_clone(), single(&residual)] {
                let got = norm.finish(x.copy(), Some(&residual), true);
                assert_eq!(got.kind(), kind);
                let error = (single(&got) - &want).abs() - want.abs() * rounding;
                assert!(error.max().double_value(&[]) <= 0.0, "{kind:?}");
            }
        }
    }

    #[test]
    fn a_frozen_norm_notices_new_values_and_other_types() {
        let norm = FrozenBatchNorm2d::new(&Parameters::new(Device::Cpu).root(), 1);
        let x = Tensor::ones([1, 1, 1, 1], (Kind::Float, Device::Cpu));
        assert_eq!(norm.forward(&x).double_value(&[0, 0, 0, 0]), 1.0);
        let _ = norm.bias.shallow_clone().fill_(2.0);
        assert_eq!(norm.forward(&x).double_value(&[0, 0, 0, 0]), 3.0);
        assert_eq!(norm.forward(&x.to_kind(Kind::Half)).kind(), Kind::Half);
        assert_eq!(norm.forward(&x).kind(), Kind::Float);
    }

    #[test]
    fn batch_norm_moves_its_statistics_in_training_only() {
        let parameters = Parameters::new(Device::Cpu);
        let norm = BatchNorm2d::new(&parameters.root().sub("bn"), 2);
        let x = Tensor::from_slice(&[1f32, 3.0, 10.0, 30.0]).reshape([1, 2, 1, 2]);
        let _ = norm.forward(&x, false);
        assert_eq!(norm.num_batches_tracked.int64_value(&[]), 0);
        let _ = norm.forward(&x, true);
        assert_eq!(norm.num_batches_tracked.int64_value(&[]), 1);
        let mean = Vec::<f32>::try_from(&norm.running_mean).unwrap();
        assert!((mean[0] - 0.2).abs() < 1e-6 && (mean[1] - 2.0).abs() < 1e-5, "{mean:?}");
        // The table and the layer look at the same memory.
        let listed = parameters.get("bn.running_mean").unwrap();
        assert_eq!(Vec::<f32>::try_from(&listed).unwrap(), mean);
        let empty = norm.forward(&Tensor::zeros([0, 2, 4, 4], (Kind::Float, Device::Cpu)), true);
        assert_eq!(empty.size(), [0, 2, 4, 4]);
        assert_eq!(norm.num_batches_tracked.int64_value(&[]), 1);
    }
}
