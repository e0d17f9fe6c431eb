//! Gradients against finite differences, for the tests of the operators.

use tch::{Kind, Tensor};

use crate::ffi::Generator;

/// Numbers between -1 and 1, the same for the same seed.
pub fn random(shape: &[i64], seed: u64) -> Tensor {
    let numbers = Generator::new(seed).unwrap().rand(shape.iter().product()).unwrap();
    Tensor::from_slice(&numbers).to_kind(Kind::Double).view(shape) * 2.0 - 1.0
}

/// Checks the gradient of every value of every input (double) of a random linear function of `f`'s output.
pub fn gradcheck(f: impl Fn(&[Tensor]) -> Tensor, inputs: &[&Tensor]) {
    const STEP: f64 = 1e-6;
    let leaves: Vec<Tensor> = inputs.iter().map(|t| t.copy().set_requires_grad(true)).collect();
    let output = f(&leaves);
    let factors = random(&output.size(), 99);
    let grads = Tensor::run_backward(&[(&output * &factors).sum(Kind::Double)], &leaves, false, false);
    let _no_grad = tch::no_grad_guard();
    for (which, (input, grad)) in inputs.iter().zip(&grads).enumerate() {
        assert_eq!(grad.size(), input.size());
        for i in 0..input.numel() as i64 {
            let value_at = |step: f64| {
                let moved: Vec<Tensor> = inputs.iter().map(|t| t.copy()).collect();
                let value = moved[which].view(-1).get(i).double_value(&[]);
                let _ = moved[which].view(-1).get(i).fill_(value + step);
                (f(&moved) * &factors).sum(Kind::Double).double_value(&[])
            };
            let want = (value_at(STEP) - value_at(-STEP)) / (2.0 * STEP);
            let got = grad.reshape(-1).double_value(&[i]);
            assert!(
                (got - want).abs() < 1e-6 + 1e-5 * want.abs(),
                "input {which}, value {i}: gradient {got}, finite difference {want}"
            );
        }
    }
}
