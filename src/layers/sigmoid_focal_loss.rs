//! The classification loss of RetinaNet.

use tch::{Kind, Tensor};

/// The focal loss of every logit (Focal Loss for Dense Object Detection, equation 5), by the formula of the original's
/// kernel: finite for any finite logit.
///
/// # Shapes
/// `logits` `[R, C]`; `targets` `[R]` int, class 1..=C, 0 background, below 0 ignored → `[R, C]`.
pub fn sigmoid_focal_loss(logits: &Tensor, targets: &Tensor, gamma: f64, alpha: f64) -> Tensor {
    let classes = Tensor::arange_start(1, logits.size()[1] + 1, (targets.kind(), targets.device())).unsqueeze(0);
    let targets = targets.unsqueeze(1);
    let is_class = targets.eq_tensor(&classes);
    let is_other = targets.ne_tensor(&classes).logical_and(&targets.ge(0)).to_kind(Kind::Float);
    let p = logits.sigmoid();
    let q: Tensor = 1.0 - &p;
    let of_class = q.pow_tensor_scalar(gamma) * p.clamp_min(f64::from(f32::MIN_POSITIVE)).log() * -alpha;
    let of_other = p.pow_tensor_scalar(gamma) * (-logits).log_sigmoid() * (alpha - 1.0);
    of_class * is_class.to_kind(Kind::Float) + of_other * is_other
}
