use std::sync::Arc;
use std::vec;

use anyhow::{bail, Result};

use super::{BatchSampler, Pass};

/// Goes over the data set again and again until a number of iterations is reached (the original's
/// `samplers/iteration_based_batch_sampler.py`).
#[derive(Clone)]
pub struct IterationBasedBatchSampler {
    batch_sampler: Arc<dyn BatchSampler>,
    num_iterations: u64,
    start_iter: u64,
}

impl IterationBasedBatchSampler {
    /// Batches for the iterations from `start_iter` up to `num_iterations`.
    pub fn new(batch_sampler: Arc<dyn BatchSampler>, num_iterations: u64, start_iter: u64) -> Self {
        Self { batch_sampler, num_iterations, start_iter }
    }

    /// The batches from `start_iter` on, each with the pass it belongs to.
    pub fn iter(&self) -> Iterations {
        Iterations {
            sampler: self.clone(),
            iteration: self.start_iter,
            next_pass: 0,
            pass: Pass::default(),
            batches: Vec::new().into_iter(),
        }
    }
}

/// Iterator over the batches of an [`IterationBasedBatchSampler`].
pub struct Iterations {
    sampler: IterationBasedBatchSampler,
    iteration: u64,
    next_pass: u64,
    pass: Pass,
    batches: vec::IntoIter<Vec<usize>>,
}

impl Iterations {
    fn next_batch(&mut self) -> Result<Vec<usize>> {
        if let Some(batch) = self.batches.next() {
            return Ok(batch);
        }
        self.pass = Pass { number: self.next_pass, iteration: self.iteration };
        self.next_pass += 1;
        self.batches = self.sampler.batch_sampler.batches(self.pass)?.into_iter();
        match self.batches.next() {
            Some(batch) => Ok(batch),
            None => bail!("there is no image to train on"),
        }
    }
}

impl Iterator for Iterations {
    type Item = Result<(Pass, Vec<usize>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.iteration >= self.sampler.num_iterations {
            return None;
        }
        let batch = self.next_batch();
        match &batch {
            Ok(_) => self.iteration += 1,
            Err(_) => self.iteration = self.sampler.num_iterations,
        }
        Some(batch.map(|batch| (self.pass, batch)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PlainBatchSampler, SequentialSampler};
    use super::*;

    fn sampler(len: usize, iterations: u64, start: u64) -> IterationBasedBatchSampler {
        let plain = PlainBatchSampler::new(Box::new(SequentialSampler::new(len)), 2).unwrap();
        IterationBasedBatchSampler::new(Arc::new(plain), iterations, start)
    }

    #[test]
    fn passes_count_and_know_their_iteration() {
        let got: Vec<(Pass, Vec<usize>)> = sampler(3, 7, 4).iter().map(Result::unwrap).collect();
        let pass = |number, iteration| Pass { number, iteration };
        assert_eq!(got, [(pass(0, 4), vec![0, 1]), (pass(0, 4), vec![2]), (pass(1, 6), vec![0, 1])]);
        assert_eq!(sampler(3, 7, 9).iter().count(), 0);
    }

    #[test]
    fn an_empty_data_set_is_an_error_once() {
        let got: Vec<bool> = sampler(0, 3, 0).iter().map(|batch| batch.is_err()).collect();
        assert_eq!(got, [true]);
    }
}
