use tch::Tensor;

use super::full_precision;
use crate::ffi;

/// Sigmoid focal loss of every logit (Lin et al., *Focal Loss for Dense Object Detection*, 2017), differentiable in
/// `logits`.
///
/// The formula is that of the original's kernel (`csrc/cuda/SigmoidFocalLoss_cuda.cu`), which is finite for every
/// logit; the plain logarithms of its fallback for CPU tensors give nan beyond about 17.
///
/// # Shapes
/// - `logits`: `[R, C]`; half and bfloat16 are converted to float32
/// - `targets`: `[R]`, integers: negative is ignored, 0 is background, t is the class of column t - 1
/// - output: `[R, C]`, not yet summed
pub fn sigmoid_focal_loss(logits: &Tensor, targets: &Tensor, gamma: f64, alpha: f64) -> Tensor {
    ffi::sigmoid_focal_loss(&full_precision(logits), targets, gamma, alpha).expect("sigmoid_focal_loss")
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::layers::gradcheck::{gradcheck, random};
    use crate::utils::testing::with_one_and_two_threads;

    #[test]
    fn gradient_equals_finite_differences() {
        let logits = random(&[6, 5], 3) * 4.0;
        let targets = Tensor::from_slice(&[-1i64, 0, 1, 2, 5, 0]);
        for gamma in [0.0, 0.5, 1.0, 2.0, 3.5] {
            gradcheck(|t| sigmoid_focal_loss(&t[0], &targets, gamma, 0.3), &[&logits]);
        }
    }

    #[test]
    fn float_equals_double_and_is_finite_everywhere() {
        let logits = Tensor::linspace(-120.0, 120.0, 4800, (Kind::Double, tch::Device::Cpu)).view([600, 8]);
        let targets = Tensor::arange(600, (Kind::Int64, tch::Device::Cpu)).remainder(9);
        for gamma in [1.5, 2.0] {
            let run = |kind: Kind| {
                let x = logits.to_kind(kind).set_requires_grad(true);
                let loss = sigmoid_focal_loss(&x, &targets, gamma, 0.25);
                let grads = Tensor::run_backward(&[loss.sum(kind)], &[&x], false, false);
                (loss.detach().to_kind(Kind::Double), grads[0].to_kind(Kind::Double))
            };
            let ((loss, grad), (loss64, grad64)) = (run(Kind::Float), run(Kind::Double));
            for (got, want) in [(loss, loss64), (grad, grad64)] {
                let limit = want.abs() * 1e-5 + 1e-6;
                assert!(bool::try_from((got - want).abs().le_tensor(&limit).all()).unwrap());
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_values() {
        let logits = random(&[500, 20], 1).to_kind(Kind::Float);
        let targets = Tensor::arange(500, (Kind::Int64, tch::Device::Cpu)).remainder(21);
        let (one, two) = with_one_and_two_threads(|| sigmoid_focal_loss(&logits, &targets, 2.0, 0.25));
        assert!(one == two);
    }
}
