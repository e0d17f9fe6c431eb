//! Several data sets one after the other (the original's `datasets/concat_dataset.py`).

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::{Dataset, ImageInfo, Sample, TargetFields};
use crate::data::evaluation::Evaluator;
use crate::structures::BoxList;

/// Several data sets as one. A label is the same class in all of them; the longest list of classes is that of the
/// whole.
pub struct ConcatDataset {
    datasets: Vec<Arc<dyn Dataset>>,
    /// The number of images up to and including each data set.
    cumulative: Vec<usize>,
}

impl ConcatDataset {
    /// # Errors
    /// If there is no data set.
    pub fn new(datasets: Vec<Arc<dyn Dataset>>) -> Result<Self> {
        let Some(first) = datasets.first() else { anyhow::bail!("there is no data set to concatenate") };
        let names = first.class_names();
        for other in &datasets[1..] {
            let others = other.class_names();
            let differs = |label: &usize| names[*label] != others[*label];
            if let Some(label) = (1..names.len().min(others.len())).find(differs) {
                log::warn!(
                    "label {label} is {:?} in one data set and {:?} in another: both are trained on as one class. They \
                     are {} and {}",
                    names[label],
                    others[label],
                    first.describe(),
                    other.describe()
                );
            }
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

    /// The first data set that has the most classes.
    pub fn richest(&self) -> &Arc<dyn Dataset> {
        let classes = |at: &usize| (self.datasets[*at].class_names().len(), std::cmp::Reverse(*at));
        let at = (0..self.datasets.len()).max_by_key(classes).unwrap_or(0);
        &self.datasets[at]
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

    fn check_fields(&self, fields: TargetFields) -> Result<()> {
        self.datasets.iter().try_for_each(|dataset| dataset.check_fields(fields))
    }

    fn class_names(&self) -> Vec<String> {
        self.richest().class_names()
    }

    fn largest_label(&self) -> i64 {
        self.datasets.iter().map(|dataset| dataset.largest_label()).max().unwrap_or(0)
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
