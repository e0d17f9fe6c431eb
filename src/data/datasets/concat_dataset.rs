//! Several data sets one after the other (the original's `datasets/concat_dataset.py`).

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{ensure, Result};

use super::{Dataset, ImageInfo, Sample};
use crate::data::evaluation::Evaluator;
use crate::structures::BoxList;

/// Several data sets with the same classes as one.
pub struct ConcatDataset {
    datasets: Vec<Arc<dyn Dataset>>,
    /// The number of images up to and including each data set.
    cumulative: Vec<usize>,
}

impl ConcatDataset {
    /// # Errors
    ///
    /// If there is no data set, or their classes differ: one label would mean two things.
    pub fn new(datasets: Vec<Arc<dyn Dataset>>) -> Result<Self> {
        let Some(first) = datasets.first() else { anyhow::bail!("there is no data set to concatenate") };
        for other in &datasets[1..] {
            ensure!(
                other.class_names() == first.class_names(),
                "data sets that are trained on together must have the same classes in the same order, but these differ: \
                 {} and {}",
                first.describe(),
                other.describe()
            );
        }
        let mut total = 0;
        let cumulative = datasets.iter().map(|dataset| {
            total += dataset.len();
            total
        });
        Ok(Self { cumulative: cumulative.collect(), datasets })
    }

    /// The data set an image comes from, and its index there.
    ///
    /// # Panics
    ///
    /// If there is no such image.
    pub fn locate(&self, index: usize) -> (&Arc<dyn Dataset>, usize) {
        let dataset = self.cumulative.partition_point(|&end| end <= index);
        let before = if dataset == 0 { 0 } else { self.cumulative[dataset - 1] };
        (&self.datasets[dataset], index - before)
    }

    /// The data sets in their order.
    pub fn datasets(&self) -> &[Arc<dyn Dataset>] {
        &self.datasets
    }
}

impl Dataset for ConcatDataset {
    fn len(&self) -> usize {
        self.cumulative.last().copied().unwrap_or(0)
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (dataset, inner) = self.locate(index);
        Ok(Sample { index, ..dataset.get(inner)? })
    }

    fn image_info(&self, index: usize) -> Result<ImageInfo> {
        let (dataset, inner) = self.locate(index);
        dataset.image_info(inner)
    }

    fn image_path(&self, index: usize) -> PathBuf {
        let (dataset, inner) = self.locate(index);
        dataset.image_path(inner)
    }

    fn ground_truth(&self, index: usize) -> Result<BoxList> {
        let (dataset, inner) = self.locate(index);
        dataset.ground_truth(inner)
    }

    fn class_names(&self) -> Vec<String> {
        self.datasets[0].class_names()
    }

    fn categories(&self) -> Vec<(i64, String)> {
        let mut all: Vec<(i64, String)> = Vec::new();
        for (id, name) in self.datasets.iter().flat_map(|dataset| dataset.categories()) {
            if !all.iter().any(|(known, _)| *known == id) {
                all.push((id, name));
            }
        }
        all
    }

    /// The first data set's.
    fn evaluator(&self) -> Box<dyn Evaluator> {
        self.datasets[0].evaluator()
    }

    fn describe(&self) -> String {
        self.datasets.iter().map(|dataset| dataset.describe()).collect::<Vec<_>>().join(" + ")
    }
}
