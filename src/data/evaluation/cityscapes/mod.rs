//! Cityscapes' evaluation of boxes and masks (the original's `evaluation/cityscapes`).

mod average_precision;
mod matching;
mod report;

use anyhow::{ensure, Result};

pub use average_precision::{evaluate_matches, ApMatrix, MIN_REGION_SIZE};
pub use matching::{match_gts_with_preds, ImageMatches, Instance, Pairing};
pub use report::{averages, print_results, Averages, ClassAverage};

use super::{EvaluationOptions, Evaluator, IouType, Results, LOGGER};
use crate::data::datasets::Dataset;
use crate::structures::BoxList;
use crate::utils::atomic_file::write_atomically;
use crate::utils::miscellaneous::mkdir;

/// Cityscapes' average precision over the overlaps 0.5 to 0.95, per class and on average.
#[derive(Clone, Copy, Debug, Default)]
pub struct CityscapesEvaluator;

impl Evaluator for CityscapesEvaluator {
    fn evaluate(&self, dataset: &dyn Dataset, predictions: &[BoxList], options: &EvaluationOptions) -> Result<Results> {
        ensure!(!options.box_only, "Cityscapes has no evaluation of proposals");
        for iou_type in &options.iou_types {
            ensure!(*iou_type != IouType::Keypoints, "Cityscapes has no evaluation of keypoints");
        }
        log::info!(target: LOGGER, "CityScapes evaluation on [{}]:", dataset.describe());
        log::info!(target: LOGGER, "Matching GT instances with Predictions");
        let names = dataset.class_names();
        let matches = match_gts_with_preds(dataset, predictions)?;
        let folder = options.output_folder.as_ref().map(|folder| folder.join("evaluationResults"));
        if let Some(folder) = &folder {
            mkdir(folder)?;
            write_atomically(&folder.join("matches.json"), report::matches_json(&matches, &names).as_bytes())?;
        }

        let mut results = Results::default();
        let mut text = String::new();
        for &iou_type in &options.iou_types {
            let (matching, short, title, file) = match iou_type {
                IouType::Bbox => ("BBox", "Box", "BBox", "boxResult.json"),
                _ => ("Mask", "Mask", "Mask", "maskResult.json"),
            };
            log::info!(target: LOGGER, "Evaluating {matching} matches");
            let matrix = evaluate_matches(&matches, iou_type, names.len());
            log::info!(target: LOGGER, "Average {short} scores");
            let averages = averages(&matrix, &names);
            if let Some(folder) = &folder {
                let json = report::result_json(&averages, &matrix, &names);
                write_atomically(&folder.join(file), json.as_bytes())?;
            }
            text += &format!("\n{title}\n{}", print_results(&averages));
            add_results(&mut results, iou_type.name(), &averages);
        }
        log::info!(target: LOGGER, "{text}");
        Ok(results)
    }
}

fn add_results(results: &mut Results, task: &str, averages: &Averages) {
    results.add_task(task, &["AP", "AP50", "AP75"]);
    results.set_by_position(task, &[averages.all.ap, averages.all.ap50, averages.all.ap75]);
    let classes = averages.classes.iter().skip(1).map(|(name, average)| (name.clone(), average.ap));
    results.set_per_category(task, classes.collect());
}
