//! The order in which images are visited.
//!
//! Every order is a pure function of a seed and the [`Pass`] over the data set, so that it can be begun anywhere again
//! and does not depend on how many threads load the images.

mod distributed;
mod grouped_batch_sampler;
mod iteration_based_batch_sampler;

use anyhow::{ensure, Result};

pub use distributed::DistributedSampler;
pub use grouped_batch_sampler::GroupedBatchSampler;
pub use iteration_based_batch_sampler::{IterationBasedBatchSampler, Iterations};

use super::random::TorchGenerator;

/// Which pass over the data set is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Passes before this one.
    pub number: u64,
    /// Iterations before this one: what the original hands to `set_epoch`.
    pub iteration: u64,
}

/// Gives the indices of one pass over a data set.
pub trait Sampler: Send + Sync {
    /// # Errors
    /// If the sampler's settings do not fit the data set.
    fn indices(&self, pass: Pass) -> Result<Vec<usize>>;
}

/// Gives the batches of one pass over a data set.
pub trait BatchSampler: Send + Sync {
    /// # Errors
    /// If the sampler's settings do not fit the data set.
    fn batches(&self, pass: Pass) -> Result<Vec<Vec<usize>>>;
}

/// Every image once, in the order of the data set.
#[derive(Clone, Debug)]
pub struct SequentialSampler {
    len: usize,
}

impl SequentialSampler {
    /// The order of `len` images.
    pub fn new(len: usize) -> Self {
        Self { len }
    }
}

impl Sampler for SequentialSampler {
    fn indices(&self, _: Pass) -> Result<Vec<usize>> {
        Ok((0..self.len).collect())
    }
}

/// Every image once, in random order: `torch.utils.data.RandomSampler` after `torch.manual_seed(seed)`, which draws one
/// 64-bit integer a pass and seeds the pass's permutation with it.
#[derive(Clone, Debug)]
pub struct RandomSampler {
    len: usize,
    seed: u64,
}

impl RandomSampler {
    /// Permutations of `len` images.
    pub fn new(len: usize, seed: u64) -> Self {
        Self { len, seed }
    }
}

impl Sampler for RandomSampler {
    fn indices(&self, pass: Pass) -> Result<Vec<usize>> {
        let mut seeds = TorchGenerator::new(self.seed);
        for _ in 0..pass.number {
            seeds.random_int64();
        }
        Ok(TorchGenerator::new(seeds.random_int64() as u64).randperm(self.len))
    }
}

/// Cuts a sampler's order into batches; the last one may be smaller.
pub struct PlainBatchSampler {
    sampler: Box<dyn Sampler>,
    batch_size: usize,
}

impl PlainBatchSampler {
    /// # Errors
    /// If `batch_size` is zero.
    pub fn new(sampler: Box<dyn Sampler>, batch_size: usize) -> Result<Self> {
        ensure!(batch_size > 0, "a batch needs at least one image");
        Ok(Self { sampler, batch_size })
    }
}

impl BatchSampler for PlainBatchSampler {
    fn batches(&self, pass: Pass) -> Result<Vec<Vec<usize>>> {
        Ok(self.sampler.indices(pass)?.chunks(self.batch_size).map(<[usize]>::to_vec).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn random_passes_visit_everything_once(len in 0usize..60, seed: u64, number in 0u64..5) {
            let mut got = RandomSampler::new(len, seed).indices(Pass { number, iteration: 0 }).unwrap();
            got.sort_unstable();
            prop_assert_eq!(got, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn plain_batches_end_with_a_small_one() {
        let sampler = PlainBatchSampler::new(Box::new(SequentialSampler::new(5)), 2).unwrap();
        assert_eq!(sampler.batches(Pass::default()).unwrap(), [vec![0, 1], vec![2, 3], vec![4]]);
        assert!(PlainBatchSampler::new(Box::new(SequentialSampler::new(5)), 0).is_err());
    }
}
