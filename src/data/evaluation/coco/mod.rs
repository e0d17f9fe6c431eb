//! COCO's evaluation of boxes, masks and keypoints (the original's `evaluation/coco/coco_eval.py`).

mod annotation_file;
mod ground_truth;
mod metrics;
mod prepare;
mod proposals;
mod result_file;

use anyhow::Result;

pub use ground_truth::CocoGroundTruth;
pub use metrics::{evaluate_predictions_on_coco, CategoryPrecision, CocoEvaluation};
pub use prepare::{prepare_for_coco_detection, prepare_for_coco_keypoint, prepare_for_coco_segmentation};
pub use proposals::{evaluate_box_proposals, AreaRange, ProposalRecall};
pub use result_file::write_results;

use super::{EvaluationOptions, Evaluator, IouType, Results, LOGGER};
use crate::data::datasets::Dataset;
use crate::structures::BoxList;
use crate::utils::miscellaneous::mkdir;

/// COCO's metrics. For a [`COCODataset`](crate::data::datasets::COCODataset) the ground truth is its annotation file,
/// for any other data set what its [`ground_truth`](Dataset::ground_truth) says.
#[derive(Clone, Copy, Debug, Default)]
pub struct CocoEvaluator;

impl Evaluator for CocoEvaluator {
    fn evaluate(&self, dataset: &dyn Dataset, predictions: &[BoxList], options: &EvaluationOptions) -> Result<Results> {
        let ground_truth = CocoGroundTruth::of_dataset(dataset)?;
        do_coco_evaluation(&ground_truth, predictions, options)
    }

    fn check(&self, dataset: &dyn Dataset) -> Result<()> {
        CocoGroundTruth::check_file(dataset)
    }
}

/// Evaluates predictions against a ground truth: logs the outcome, and writes `bbox.json`, `segm.json`,
/// `keypoints.json` and `coco_results.pth`, or for proposals `box_proposals.pth`.
///
/// # Errors
/// See [`Evaluator::evaluate`].
pub fn do_coco_evaluation(
    ground_truth: &CocoGroundTruth,
    predictions: &[BoxList],
    options: &EvaluationOptions,
) -> Result<Results> {
    ground_truth.check_number(predictions.len())?;
    if let Some(folder) = &options.output_folder {
        mkdir(folder)?;
    }
    let results = if options.box_only {
        evaluate_proposals(ground_truth, predictions)?
    } else {
        evaluate_detections(ground_truth, predictions, options)?
    };
    log::info!(target: LOGGER, "{results}");
    if let Some(folder) = &options.output_folder {
        let name = if options.box_only { "box_proposals.pth" } else { "coco_results.pth" };
        results.save(&folder.join(name))?;
    }
    Ok(results)
}

fn evaluate_proposals(ground_truth: &CocoGroundTruth, predictions: &[BoxList]) -> Result<Results> {
    log::info!(target: LOGGER, "Evaluating bbox proposals");
    let mut results = Results::proposals();
    for limit in [100, 1000] {
        for (area, suffix) in
            [(AreaRange::All, ""), (AreaRange::Small, "s"), (AreaRange::Medium, "m"), (AreaRange::Large, "l")]
        {
            let recall = evaluate_box_proposals(ground_truth, predictions, area, Some(limit))?;
            results.set("box_proposal", &format!("AR{suffix}@{limit}"), f64::from(recall.average));
        }
    }
    Ok(results)
}

fn evaluate_detections(
    ground_truth: &CocoGroundTruth,
    predictions: &[BoxList],
    options: &EvaluationOptions,
) -> Result<Results> {
    log::info!(target: LOGGER, "Preparing results for COCO format");
    let mut prepared = Vec::new();
    for &iou_type in &options.iou_types {
        log::info!(target: LOGGER, "Preparing {} results", iou_type.name());
        let detections = match iou_type {
            IouType::Bbox => prepare_for_coco_detection(ground_truth, predictions),
            IouType::Segm => prepare_for_coco_segmentation(ground_truth, predictions),
            IouType::Keypoints => prepare_for_coco_keypoint(ground_truth, predictions),
        };
        let detections = detections?;
        if let Some(folder) = &options.output_folder {
            let path = folder.join(format!("{}.json", iou_type.name()));
            write_results(&path, &detections, |image| ground_truth.id_in_file(image))?;
        }
        prepared.push((iou_type, detections));
    }

    log::info!(target: LOGGER, "Evaluating predictions");
    let mut results = Results::coco(&options.iou_types);
    for (iou_type, detections) in prepared {
        let evaluation = evaluate_predictions_on_coco(ground_truth.coco()?, detections, iou_type)?;
        let task = iou_type.name();
        log::info!(target: LOGGER, "Results of {task}:\n{}", evaluation.summary_lines().join("\n"));
        let categories = evaluation.per_category();
        log::info!(target: LOGGER, "AP of {task} per category:\n{}", metrics::category_table(&categories));
        results.set_by_position(task, evaluation.stats());
        results.set_per_category(task, categories.into_iter().map(|c| (c.name, c.ap)).collect());
    }
    Ok(results)
}
