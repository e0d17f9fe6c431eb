//! Pascal VOC's evaluation of boxes (the original's `evaluation/voc`).

mod average_precision;

use anyhow::{Context, Result};

pub use average_precision::{
    average_precision, calc_detection_voc_ap, calc_detection_voc_prec_rec, eval_detection_voc, PrecisionRecall,
    VocResult,
};

use super::{EvaluationOptions, Evaluator, Results, LOGGER};
use crate::data::datasets::Dataset;
use crate::structures::BoxList;
use crate::utils::atomic_file::write_atomically;
use crate::utils::miscellaneous::mkdir;

/// VOC's average precision at one overlap. The ground truth needs the field `difficult` beside `labels`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VocEvaluator {
    /// The overlap from which a box counts as found.
    pub iou_thresh: f64,
    /// VOC 2007's average over eleven recall levels instead of the area under the curve.
    pub use_07_metric: bool,
}

impl Default for VocEvaluator {
    fn default() -> Self {
        VocEvaluator { iou_thresh: 0.5, use_07_metric: true }
    }
}

impl Evaluator for VocEvaluator {
    fn evaluate(&self, dataset: &dyn Dataset, predictions: &[BoxList], options: &EvaluationOptions) -> Result<Results> {
        if options.box_only {
            log::warn!(target: LOGGER, "voc evaluation doesn't support box_only, ignored.");
        }
        log::info!(target: LOGGER, "performing voc evaluation, ignored iou_types.");
        let mut predicted = Vec::with_capacity(predictions.len());
        let mut truth = Vec::with_capacity(predictions.len());
        for (index, prediction) in predictions.iter().enumerate() {
            let info = dataset.image_info(index)?;
            let image = || format!("image {} of {}", info.id, dataset.describe());
            predicted.push(prediction.resize((info.width, info.height)).with_context(image)?);
            truth.push(dataset.ground_truth(index).with_context(image)?);
        }
        let result = eval_detection_voc(&predicted, &truth, self.iou_thresh, self.use_07_metric)?;
        let names = dataset.class_names();
        let text = result_text(&result, &names);
        log::info!(target: LOGGER, "{text}");
        if let Some(folder) = &options.output_folder {
            mkdir(folder)?;
            write_atomically(&folder.join("result.txt"), text.as_bytes())?;
        }
        Ok(results(&result, &names))
    }
}

/// The original's `result.txt`: the mean, then a line for every class but the background.
fn result_text(result: &VocResult, names: &[String]) -> String {
    let number = |value: f64| if value.is_nan() { "nan".to_owned() } else { format!("{value:.4}") };
    let mut text = format!("mAP: {}\n", number(result.map));
    for (name, ap) in names.iter().zip(&result.ap).skip(1) {
        text += &format!("{name:<16}: {}\n", number(*ap));
    }
    text
}

/// The task `voc` with the metric `mAP`; nan for classes that do not occur.
fn results(result: &VocResult, names: &[String]) -> Results {
    let mut results = Results::default();
    results.add_task("voc", &["mAP"]);
    results.set("voc", "mAP", result.map);
    let classes = names.iter().cloned().zip(result.ap.iter().copied()).skip(1);
    results.set_per_category("voc", classes.collect());
    results
}
