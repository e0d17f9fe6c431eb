//! Evaluation of predictions (the original's `data/datasets/evaluation`).
//!
//! A data set says which [`Evaluator`] judges its predictions: [`voc`] for Pascal VOC, [`cityscapes`] for Cityscapes,
//! [`coco`] for COCO and for every data set that says nothing else.

pub mod cityscapes;
pub mod coco;
pub mod predictions;
mod results;
pub mod voc;

use std::path::PathBuf;

use anyhow::{bail, Result};

pub use predictions::{load_predictions, save_predictions};
pub use results::{check_expected_results, Results};

use super::datasets::Dataset;
use crate::structures::BoxList;

/// The logger of everything said here, as in the original.
pub(crate) const LOGGER: &str = "maskrcnn_benchmark.inference";

/// What is compared with the ground truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IouType {
    /// Boxes, by their overlap.
    Bbox,
    /// Masks, by their overlap.
    Segm,
    /// Keypoints, by their similarity (OKS).
    Keypoints,
}

impl IouType {
    /// The original's name, which is also that of the task and of the file of results.
    pub fn name(self) -> &'static str {
        match self {
            IouType::Bbox => "bbox",
            IouType::Segm => "segm",
            IouType::Keypoints => "keypoints",
        }
    }
}

impl std::str::FromStr for IouType {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "bbox" => Ok(IouType::Bbox),
            "segm" => Ok(IouType::Segm),
            "keypoints" => Ok(IouType::Keypoints),
            _ => bail!("'{name}' cannot be evaluated: it must be bbox, segm or keypoints"),
        }
    }
}

/// What to evaluate and where to write.
#[derive(Clone, Debug)]
pub struct EvaluationOptions {
    /// The predictions are proposals (field `objectness`): only their recall is evaluated.
    pub box_only: bool,
    /// What to compare, in the order of the report.
    pub iou_types: Vec<IouType>,
    /// Where the result files go; none are written without it.
    pub output_folder: Option<PathBuf>,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        EvaluationOptions { box_only: false, iou_types: vec![IouType::Bbox], output_folder: None }
    }
}

/// Judges the predictions for a data set.
pub trait Evaluator {
    /// Compares the predictions with the ground truth, logs the outcome and writes result files.
    ///
    /// `predictions[i]` belongs to image `i` of the data set, in the frame the network saw: boxes with the fields
    /// `scores` and `labels`, and `mask` (`[N, 1, M, M]` probabilities) or `keypoints` where these are evaluated.
    ///
    /// # Errors
    /// If a prediction lacks a field or has an unknown label, if the ground truth cannot be read, or a file not
    /// written.
    fn evaluate(&self, dataset: &dyn Dataset, predictions: &[BoxList], options: &EvaluationOptions) -> Result<Results>;

    /// Looks at what [`evaluate`](Self::evaluate) will need beyond the data set itself, so that a training does not end
    /// in an error. By default there is nothing.
    ///
    /// # Errors
    /// If the ground truth cannot be read.
    fn check(&self, _dataset: &dyn Dataset) -> Result<()> {
        Ok(())
    }
}
