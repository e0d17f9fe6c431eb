//! Counts the work of convolutions and linear layers, for tables and benchmarks.

use std::cell::Cell;

thread_local! {
    /// Multiply-adds since counting began on this thread, if it did.
    static COUNT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Counts, from its making to [`FlopCounter::flop`], what the layers of this thread compute.
///
/// Only convolutions, transposed convolutions and linear layers count, as is the custom; a multiplication and its
/// addition are two operations. One counter at a time: a second one starts anew.
#[derive(Debug)]
pub struct FlopCounter(());

impl FlopCounter {
    /// Starts counting at 0.
    pub fn start() -> Self {
        COUNT.set(Some(0));
        Self(())
    }

    /// Floating-point operations so far.
    pub fn flop(&self) -> u64 {
        2 * COUNT.get().unwrap_or(0)
    }
}

impl Drop for FlopCounter {
    fn drop(&mut self) {
        COUNT.set(None);
    }
}

/// Adds `values` results of `each` multiply-adds.
pub(crate) fn record(values: usize, each: usize) {
    if let Some(before) = COUNT.get() {
        COUNT.set(Some(before + values as u64 * each as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{Conv2d, ConvConfig, ConvTranspose2d, Linear, LinearConfig, Parameters};
    use tch::{Device, Kind, Tensor};

    #[test]
    fn layers_count_two_operations_per_weight_and_position() {
        let _generator = crate::utils::testing::generator();
        let parameters = Parameters::new(Device::Cpu);
        let path = parameters.root();
        let conv = Conv2d::new(&path.sub("a"), 4, 6, 3, ConvConfig { groups: 2, padding: 1, ..ConvConfig::default() });
        let up = ConvTranspose2d::new(&path.sub("b"), 6, 5, 2, ConvConfig { stride: 2, ..ConvConfig::default() });
        let linear = Linear::new(&path.sub("c"), 10, 7, LinearConfig::default());
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let counter = FlopCounter::start();
        let y = conv.forward(&zeros(&[2, 4, 5, 5]));
        assert_eq!(counter.flop(), 2 * (2 * 6 * 25) * (2 * 9));
        let _ = up.forward(&y);
        assert_eq!(counter.flop(), 2 * (2 * 6 * 25) * (2 * 9) + 2 * (2 * 6 * 25) * (5 * 4));
        drop(counter);
        let counter = FlopCounter::start();
        let _ = linear.forward(&zeros(&[3, 10]));
        assert_eq!(counter.flop(), 2 * 3 * 7 * 10);
    }
}
