use std::collections::BTreeMap;

use anyhow::{ensure, Result};

use super::{BatchSampler, Pass, Sampler};

/// Batches whose images are all of one group, in an order as close as possible to that of the underlying sampler (the
/// original's `samplers/grouped_batch_sampler.py`).
pub struct GroupedBatchSampler {
    sampler: Box<dyn Sampler>,
    group_ids: Vec<usize>,
    batch_size: usize,
    drop_uneven: bool,
}

impl GroupedBatchSampler {
    /// `group_ids` has the group of every image of the data set; `drop_uneven` leaves out batches smaller than
    /// `batch_size`.
    ///
    /// # Errors
    /// If `batch_size` is zero.
    pub fn new(sampler: Box<dyn Sampler>, group_ids: Vec<usize>, batch_size: usize, drop_uneven: bool) -> Result<Self> {
        ensure!(batch_size > 0, "a batch needs at least one image");
        Ok(Self { sampler, group_ids, batch_size, drop_uneven })
    }
}

impl BatchSampler for GroupedBatchSampler {
    /// A group of which the sampler gave no image (few images, many processes) has no batch; the original ends there
    /// with an IndexError.
    ///
    /// # Errors
    /// The sampler's.
    fn batches(&self, pass: Pass) -> Result<Vec<Vec<usize>>> {
        let sampled = self.sampler.indices(pass)?;
        // Where an image stands in the sampled order; of a repeated image only the last place counts.
        let mut place = vec![None; self.group_ids.len()];
        for (position, &index) in sampled.iter().enumerate() {
            place[index] = Some(position);
        }
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (&group, place) in self.group_ids.iter().zip(&place) {
            if let Some(position) = place {
                groups.entry(group).or_default().push(*position);
            }
        }
        let mut batches = Vec::new();
        for mut positions in groups.into_values() {
            positions.sort_unstable();
            batches.extend(positions.chunks(self.batch_size).map(<[usize]>::to_vec));
        }
        batches.sort_by_key(|batch| batch[0]);
        if self.drop_uneven {
            batches.retain(|batch| batch.len() == self.batch_size);
        }
        let images = |batch: Vec<usize>| batch.into_iter().map(|position| sampled[position]).collect();
        Ok(batches.into_iter().map(images).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::RandomSampler;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_image_once_and_groups_never_mixed(
            groups in proptest::collection::vec(0usize..3, 1..40), batch_size in 1usize..5, seed: u64
        ) {
            let sampler = Box::new(RandomSampler::new(groups.len(), seed));
            let grouped = GroupedBatchSampler::new(sampler, groups.clone(), batch_size, false).unwrap();
            let batches = grouped.batches(Pass::default()).unwrap();
            for batch in &batches {
                prop_assert!(!batch.is_empty() && batch.len() <= batch_size);
                prop_assert!(batch.iter().all(|&i| groups[i] == groups[batch[0]]));
            }
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..groups.len()).collect::<Vec<_>>());
        }
    }
}
