use tch::Tensor;

/// Smooth L1 loss (the original's `layers/smooth_l1_loss.py`): `d² / (2 beta)` where the difference is below `beta`,
/// else `d - beta / 2`; the mean over all elements or their sum. With `beta` 0 it is the L1 loss.
pub fn smooth_l1_loss(input: &Tensor, target: &Tensor, beta: f64, size_average: bool) -> Tensor {
    let distance = (input - target).abs();
    let loss = if beta > 0.0 {
        let square = distance.square() * (0.5 / beta);
        square.where_self(&distance.lt(beta), &(&distance - 0.5 * beta))
    } else {
        distance
    };
    if size_average {
        loss.mean(None)
    } else {
        loss.sum(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beta_zero_is_l1_with_finite_gradients() {
        let input = Tensor::from_slice(&[1.0f32, -2.0, 0.5]).set_requires_grad(true);
        let loss = smooth_l1_loss(&input, &Tensor::from_slice(&[0.0f32, 0.0, 0.0]), 0.0, false);
        loss.backward();
        assert_eq!(loss.double_value(&[]), 3.5);
        assert_eq!(Vec::<f32>::try_from(input.grad()).unwrap(), [1.0, -1.0, 1.0]);
    }
}
