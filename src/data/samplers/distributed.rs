use anyhow::{ensure, Result};

use super::{Pass, Sampler};
use crate::data::random::TorchGenerator;

/// One process's share of a data set: a contiguous block of a permutation that all processes agree on, padded with the
/// first indices so that all shares are equal (the original's `samplers/distributed.py`).
///
/// The permutation is seeded with [`Pass::iteration`] alone: the original calls `set_epoch` with the iteration number.
#[derive(Clone, Debug)]
pub struct DistributedSampler {
    len: usize,
    num_replicas: usize,
    rank: usize,
    shuffle: bool,
}

impl DistributedSampler {
    /// # Errors
    /// If there is no such rank, or there are more than twice as many processes as images, so that one copy of the data
    /// set cannot fill the shares.
    pub fn new(len: usize, num_replicas: usize, rank: usize, shuffle: bool) -> Result<Self> {
        ensure!(rank < num_replicas, "process {rank} of {num_replicas}: ranks count from 0");
        let sampler = Self { len, num_replicas, rank, shuffle };
        ensure!(
            sampler.num_samples() * num_replicas <= 2 * len,
            "a data set of {len} images cannot be shared among {num_replicas} processes: start at most {} processes",
            2 * len
        );
        Ok(sampler)
    }

    /// Images in one process's share.
    pub fn num_samples(&self) -> usize {
        self.len.div_ceil(self.num_replicas)
    }
}

impl Sampler for DistributedSampler {
    fn indices(&self, pass: Pass) -> Result<Vec<usize>> {
        let mut order =
            if self.shuffle { TorchGenerator::new(pass.iteration).randperm(self.len) } else { (0..self.len).collect() };
        let missing = self.num_samples() * self.num_replicas - self.len;
        order.extend_from_within(..missing);
        let offset = self.num_samples() * self.rank;
        Ok(order[offset..offset + self.num_samples()].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_cover_the_data_set(len in 1usize..50, replicas in 1usize..9, iteration: u64) {
            prop_assume!(len.div_ceil(replicas) * replicas <= 2 * len);
            let pass = Pass { number: 0, iteration };
            let mut seen = vec![0; len];
            for rank in 0..replicas {
                let share = DistributedSampler::new(len, replicas, rank, true).unwrap().indices(pass).unwrap();
                prop_assert_eq!(share.len(), len.div_ceil(replicas));
                share.into_iter().for_each(|index| seen[index] += 1);
            }
            prop_assert!(seen.iter().all(|&n| n >= 1));
        }
    }

    #[test]
    fn too_many_processes_are_refused() {
        let error = DistributedSampler::new(3, 7, 0, true).unwrap_err().to_string();
        assert!(error.contains("3 images") && error.contains("7 processes"), "{error}");
        assert!(DistributedSampler::new(3, 2, 2, true).is_err());
    }
}
