//! The loss of box offsets.

use tch::{Kind, Tensor};

/// The smooth L1 loss (Fast R-CNN, equation 3): quadratic below `beta`, linear above. The mean or, without
/// `size_average`, the sum over all values.
///
/// # Shapes
/// Two tensors of the same shape → a scalar.
pub fn smooth_l1_loss(input: &Tensor, target: &Tensor, beta: f64, size_average: bool) -> Tensor {
    let distance = (input - target).abs();
    let quadratic = distance.square() * (0.5 / beta);
    let loss = quadratic.where_self(&distance.lt(beta), &(&distance - 0.5 * beta));
    if size_average {
        loss.mean(Kind::Float)
    } else {
        loss.sum(Kind::Float)
    }
}
