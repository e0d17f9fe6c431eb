//! COCO's metrics, by the `hotcoco` crate.

use std::sync::Arc;

use anyhow::{Context, Result};
use hotcoco::types::Annotation;
use hotcoco::{AccumulatedEval, COCOeval, MetricDef, Params, COCO};

use crate::data::evaluation::IouType;

/// Average precision of one category.
#[derive(Clone, Debug, PartialEq)]
pub struct CategoryPrecision {
    /// The id in the ground truth.
    pub id: u64,
    /// The name in the ground truth.
    pub name: String,
    /// Over the overlaps 0.5 to 0.95; -1 if the ground truth has no such object.
    pub ap: f64,
    /// At overlap 0.5.
    pub ap50: f64,
    /// At overlap 0.75.
    pub ap75: f64,
}

/// A finished evaluation.
pub struct CocoEvaluation {
    evaluator: COCOeval,
    lines: Vec<String>,
}

/// Evaluates results with COCO's usual parameters.
///
/// # Errors
/// If a result has a score that is no number, or the ground truth lacks what the masks need.
pub fn evaluate_predictions_on_coco(
    ground_truth: &Arc<COCO>,
    results: Vec<Annotation>,
    iou_type: IouType,
) -> Result<CocoEvaluation> {
    CocoEvaluation::new(ground_truth, results, iou_type, |_| ())
}

impl CocoEvaluation {
    /// Evaluates results after `adjust` has changed COCO's usual parameters (images, categories, limits).
    ///
    /// # Errors
    /// See [`evaluate_predictions_on_coco`].
    pub fn new(
        ground_truth: &Arc<COCO>,
        results: Vec<Annotation>,
        iou_type: IouType,
        adjust: impl FnOnce(&mut Params),
    ) -> Result<CocoEvaluation> {
        let kind = match iou_type {
            IouType::Bbox => hotcoco::IouType::Bbox,
            IouType::Segm => hotcoco::IouType::Segm,
            IouType::Keypoints => hotcoco::IouType::Keypoints,
        };
        let detections = ground_truth.load_res_anns(results).context("the results cannot be evaluated")?;
        let mut evaluator = COCOeval::new(ground_truth.clone(), detections, kind);
        adjust(&mut evaluator.params);
        evaluator.evaluate().context("the results cannot be compared with the ground truth")?;
        evaluator.accumulate();
        // Computes the statistics; its lines are spaced differently from pycocotools'.
        evaluator.summarize_lines();
        let lines = summary_lines(&evaluator);
        Ok(CocoEvaluation { evaluator, lines })
    }

    /// COCO's twelve numbers (ten for keypoints), in the order of [`summary_lines`](Self::summary_lines).
    pub fn stats(&self) -> &[f64] {
        self.evaluator.stats().unwrap_or_default()
    }

    /// COCO's table, as pycocotools prints it.
    pub fn summary_lines(&self) -> &[String] {
        &self.lines
    }

    /// Precision and recall by overlap, recall level, category, area and limit.
    pub fn accumulated(&self) -> &AccumulatedEval {
        self.evaluator.accumulated().expect("accumulated on construction")
    }

    /// Average precision of every category, in the order of their ids.
    pub fn per_category(&self) -> Vec<CategoryPrecision> {
        let accumulated = self.accumulated();
        let params = &self.evaluator.params;
        let (area, limit) = (params.all_area_idx(), params.max_det_idx());
        let mean = |k: usize, overlaps: std::ops::Range<usize>| {
            let values: Vec<f64> = overlaps
                .flat_map(|t| (0..accumulated.shape.r).map(move |r| (t, r)))
                .map(|(t, r)| accumulated.precision[accumulated.precision_idx(t, r, k, area, limit)])
                .filter(|&p| p > -1.0)
                .collect();
            match values.len() {
                0 => -1.0,
                n => values.iter().sum::<f64>() / n as f64,
            }
        };
        let at = |k: usize, overlap: f64| params.iou_thr_idx(overlap).map_or(-1.0, |t| mean(k, t..t + 1));
        let category = |(k, &id): (usize, &u64)| CategoryPrecision {
            id,
            name: self.evaluator.coco_gt().cat_name(id),
            ap: mean(k, 0..accumulated.shape.t),
            ap50: at(k, 0.5),
            ap75: at(k, 0.75),
        };
        accumulated.cat_ids.iter().enumerate().map(category).collect()
    }
}

/// One line per statistic, as `COCOeval.summarize` of pycocotools prints it.
fn summary_lines(evaluator: &COCOeval) -> Vec<String> {
    let line = |(metric, value): (MetricDef, &f64)| {
        let (title, kind) = if metric.ap { ("Average Precision", "(AP)") } else { ("Average Recall", "(AR)") };
        let overlaps = metric.iou_thr.map_or("0.50:0.95".to_owned(), |overlap| format!("{overlap:.2}"));
        format!(
            " {title:<18} {kind} @[ IoU={overlaps:<9} | area={:>6} | maxDets={:>3} ] = {value:.3}",
            metric.area_lbl, metric.max_det
        )
    };
    evaluator.metric_defs().into_iter().zip(evaluator.stats().unwrap_or_default()).map(line).collect()
}

/// Names and percentages side by side, three categories a line.
pub(super) fn category_table(categories: &[CategoryPrecision]) -> String {
    let width = categories.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
    let cell = |c: &CategoryPrecision| match c.ap {
        ap if ap < 0.0 => format!("{:<width$}     -", c.name),
        ap => format!("{:<width$} {:>5.1}", c.name, 100.0 * ap),
    };
    let lines: Vec<String> =
        categories.chunks(3).map(|row| row.iter().map(cell).collect::<Vec<_>>().join(" | ")).collect();
    lines.join("\n")
}
