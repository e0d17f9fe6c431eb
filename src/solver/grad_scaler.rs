//! Dynamic loss scaling: keeps the gradients of mixed precision out of the range where float16 rounds them to zero.

use anyhow::{ensure, Context, Result};

use super::sgd::Sgd;
use crate::checkpoint::{Dict, Value};

/// Multiplies the loss, and so every gradient, by a scale that follows what float16 can hold, with the rule and the
/// numbers of apex (`apex/amp/scaler.py`): 2^16 at first, halved when a gradient overflows (that step is left out),
/// doubled after 2000 steps without an overflow, at most 2^24.
///
/// The processes of a job average scaled gradients, so that all of them see the same overflow and leave out the same
/// steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradScaler {
    scale: f64,
    /// Steps since the scale was last changed.
    unskipped: i64,
}

impl Default for GradScaler {
    fn default() -> Self {
        Self { scale: Self::INITIAL, unskipped: 0 }
    }
}

impl GradScaler {
    const INITIAL: f64 = 65536.0;
    const FACTOR: f64 = 2.0;
    const WINDOW: i64 = 2000;
    const MAX: f64 = 16_777_216.0;
    /// So many halvings are no search for a scale any more. (apex goes on without an end.)
    const MIN: f64 = 1.0 / 16_777_216.0;

    /// What the loss is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Takes the scale out of the gradients again. True if all of them are finite. Reads one number back from their
    /// device.
    ///
    /// # Errors
    /// No parameter has a gradient.
    pub fn unscale(&self, optimizer: &Sgd) -> Result<bool> {
        Ok(optimizer.unscale_gradients(1.0 / self.scale)?.double_value(&[0]) == 0.0)
    }

    /// Chooses the next scale after a step whose gradients were finite, or were not.
    ///
    /// # Errors
    /// The gradients of dozens of steps in a row were not finite: it is not the scale's fault.
    pub fn update(&mut self, finite: bool) -> Result<()> {
        if !finite {
            self.scale /= Self::FACTOR;
            self.unskipped = 0;
            ensure!(
                self.scale >= Self::MIN,
                "no loss scale is small enough: it has come down to {:e}, and gradients are still not finite although \
                 the loss is. DTYPE bfloat16 has a larger range, DTYPE float32 more digits",
                self.scale
            );
            return Ok(());
        }
        self.unskipped += 1;
        if self.unskipped == Self::WINDOW {
            self.scale = (self.scale * Self::FACTOR).min(Self::MAX);
            self.unskipped = 0;
        }
        Ok(())
    }

    /// The state with apex's names.
    pub fn state_dict(&self) -> Dict {
        let mut dict = Dict::new();
        dict.insert("loss_scale", self.scale);
        dict.insert("unskipped", self.unskipped);
        dict
    }

    /// The scaler that had this state.
    ///
    /// # Errors
    /// Names the field that is missing or makes no sense.
    pub fn from_state_dict(state: &Value) -> Result<Self> {
        let dict = state.as_dict().context("the loss scaler's state is no dictionary")?;
        let scale = dict.get("loss_scale").and_then(Value::as_float);
        let scale = scale.context("the loss scaler's state has no number \"loss_scale\"")?;
        ensure!(
            (Self::MIN..=Self::MAX).contains(&scale),
            "\"loss_scale\" in the loss scaler's state is {scale}, which it never becomes"
        );
        let unskipped = dict.get("unskipped").and_then(Value::as_int);
        Ok(Self { scale, unskipped: unskipped.context("the loss scaler's state has no integer \"unskipped\"")? })
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::solver::ParamGroup;

    fn group(name: &str) -> ParamGroup {
        let tensor = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        ParamGroup { name: name.into(), tensor, lr: 0.1, initial_lr: 0.1, weight_decay: 0.0 }
    }

    #[test]
    fn the_scale_halves_at_an_overflow_and_doubles_after_a_long_time() {
        let mut scaler = GradScaler::default();
        scaler.update(false).unwrap();
        assert_eq!(scaler.scale(), 32768.0);
        for _ in 0..1999 {
            scaler.update(true).unwrap();
        }
        assert_eq!(scaler.scale(), 32768.0);
        scaler.update(true).unwrap();
        assert_eq!(scaler.scale(), 65536.0);
        for _ in 0..20_000 {
            scaler.update(true).unwrap();
        }
        assert_eq!(scaler.scale(), 16_777_216.0);
    }

    #[test]
    fn an_overflow_that_no_scale_cures_is_an_error() {
        let mut scaler = GradScaler::default();
        let error = (0..100).find_map(|_| scaler.update(false).err()).expect("an error");
        assert!(error.to_string().contains("DTYPE bfloat16"), "{error}");
    }

    #[test]
    fn gradients_come_back_to_their_size_and_overflows_are_seen() {
        let optimizer = Sgd::new(vec![group("weight"), group("bias")], 0.9);
        let scaler = GradScaler::default();
        let loss = |factor: f64| {
            let sums: Vec<Tensor> = optimizer.groups().iter().map(|g| g.tensor.sum(Kind::Float)).collect();
            (&sums[0] + &sums[1] * factor) * scaler.scale()
        };
        loss(2.0).backward();
        assert!(scaler.unscale(&optimizer).unwrap());
        assert_eq!(Vec::<f32>::try_from(optimizer.groups()[1].tensor.grad()).unwrap(), [2.0; 3]);
        loss(f64::INFINITY).backward();
        assert!(!scaler.unscale(&optimizer).unwrap());
    }

    #[test]
    fn the_state_comes_back_and_a_damaged_one_is_named() {
        let mut scaler = GradScaler::default();
        scaler.update(false).unwrap();
        scaler.update(true).unwrap();
        assert_eq!(GradScaler::from_state_dict(&Value::Dict(scaler.state_dict())).unwrap(), scaler);
        let mut damaged = Dict::new();
        damaged.insert("loss_scale", 0.0);
        damaged.insert("unskipped", 1);
        let error = GradScaler::from_state_dict(&Value::Dict(damaged)).unwrap_err().to_string();
        assert!(error.contains("loss_scale"), "{error}");
    }
}
