//! Precision, recall and their average (the original's `voc_eval.py`, which follows chainercv).

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};
use tch::{Kind, Tensor};

use crate::structures::{boxlist_iou, BoxList, Mode};

/// The curves of one class, by falling score.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PrecisionRecall {
    /// nan where only difficult objects were found so far.
    pub precision: Vec<f64>,
    /// `None` if the class has no object that is not difficult.
    pub recall: Option<Vec<f64>>,
}

/// Average precision by label, and its mean over the classes that occur. Absent ones are nan.
#[derive(Clone, Debug, PartialEq)]
pub struct VocResult {
    /// By label; ends with the largest label that occurs.
    pub ap: Vec<f64>,
    /// The mean.
    pub map: f64,
}

/// Scores and matches of the predictions of one class.
#[derive(Default)]
struct Found {
    objects: usize,
    /// Score, and whether it is right; `None` for a difficult object, which counts neither way.
    predictions: Vec<(f32, Option<bool>)>,
}

/// Evaluates box lists with `labels` and `scores` against ones with `labels` and `difficult`, image by image.
///
/// # Errors
/// If the lists differ in number, or a field is missing.
pub fn eval_detection_voc(
    predictions: &[BoxList],
    ground_truth: &[BoxList],
    iou_thresh: f64,
    use_07_metric: bool,
) -> Result<VocResult> {
    let curves = calc_detection_voc_prec_rec(predictions, ground_truth, iou_thresh)?;
    let ap = calc_detection_voc_ap(&curves, use_07_metric);
    let present: Vec<f64> = ap.iter().copied().filter(|ap| !ap.is_nan()).collect();
    let map = present.iter().sum::<f64>() / present.len() as f64;
    Ok(VocResult { ap, map })
}

/// The curves by label; `None` for labels that do not occur.
///
/// A prediction matches the object it overlaps most, if the overlap reaches `iou_thresh`; only the best prediction of
/// an object is right. The far corners are moved by one pixel before the overlap counts them inclusively, as in the
/// original.
///
/// # Errors
/// If the lists differ in number, or a field is missing.
pub fn calc_detection_voc_prec_rec(
    predictions: &[BoxList],
    ground_truth: &[BoxList],
    iou_thresh: f64,
) -> Result<Vec<Option<PrecisionRecall>>> {
    ensure!(
        predictions.len() == ground_truth.len(),
        "{} predictions for {} images with ground truth",
        predictions.len(),
        ground_truth.len()
    );
    let mut classes: BTreeMap<usize, Found> = BTreeMap::new();
    for (index, (predicted, truth)) in predictions.iter().zip(ground_truth).enumerate() {
        add_image(&mut classes, predicted, truth, iou_thresh as f32).with_context(|| format!("image {index}"))?;
    }
    let number = classes.keys().last().map_or(0, |largest| largest + 1);
    let mut curves = vec![None; number];
    for (label, found) in classes {
        curves[label] = Some(curve(found));
    }
    Ok(curves)
}

fn labels(list: &BoxList) -> Result<Vec<i64>> {
    Ok(Vec::<i64>::try_from(list.tensor_field("labels")?.to_kind(Kind::Int64))?)
}

fn add_image(
    classes: &mut BTreeMap<usize, Found>,
    predicted: &BoxList,
    truth: &BoxList,
    iou_thresh: f32,
) -> Result<()> {
    let predicted_labels = if predicted.is_empty() { Vec::new() } else { labels(predicted)? };
    let truth_labels = labels(truth)?;
    let difficult = Vec::<i64>::try_from(truth.tensor_field("difficult")?.to_kind(Kind::Int64))?;
    let mut present: Vec<i64> = predicted_labels.iter().chain(&truth_labels).copied().collect();
    present.sort();
    present.dedup();
    for label in present {
        let key = usize::try_from(label).with_context(|| format!("{label} is no label"))?;
        let of_class = |labels: &[i64]| (0..labels.len()).filter(|&i| labels[i] == label).collect::<Vec<_>>();
        let objects = of_class(&truth_labels);
        let found = classes.entry(key).or_default();
        found.objects += objects.iter().filter(|&&o| difficult[o] == 0).count();
        let mut order = of_class(&predicted_labels);
        if order.is_empty() {
            continue;
        }
        let scores = Vec::<f32>::try_from(predicted.tensor_field("scores")?.to_kind(Kind::Float))?;
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let overlaps = overlaps(predicted, &order, truth, &objects)?;
        let mut taken = vec![false; objects.len()];
        for (row, &prediction) in order.iter().enumerate() {
            let matched = best_object(&overlaps, row, objects.len()).filter(|(_, overlap)| *overlap >= iou_thresh);
            let right = match matched {
                None => Some(false),
                Some((object, _)) => {
                    let again = std::mem::replace(&mut taken[object], true);
                    (difficult[objects[object]] == 0).then_some(!again)
                }
            };
            found.predictions.push((scores[prediction], right));
        }
    }
    Ok(())
}

/// Overlaps of the chosen predictions with the chosen objects, row by row.
fn overlaps(predicted: &BoxList, order: &[usize], truth: &BoxList, objects: &[usize]) -> Result<Vec<f32>> {
    let chosen = |list: &BoxList, at: &[usize]| {
        let at: Vec<i64> = at.iter().map(|&i| i as i64).collect();
        let boxes = list.convert(Mode::Xyxy).bbox().index_select(0, &Tensor::from_slice(&at));
        let shifted = boxes + Tensor::from_slice(&[0.0f32, 0.0, 1.0, 1.0]);
        BoxList::new(shifted, truth.size(), Mode::Xyxy)
    };
    let matrix = boxlist_iou(&chosen(predicted, order)?, &chosen(truth, objects)?)?;
    Ok(Vec::<f32>::try_from(matrix.contiguous().view(-1))?)
}

fn best_object(overlaps: &[f32], row: usize, objects: usize) -> Option<(usize, f32)> {
    let row = &overlaps[row * objects..][..objects];
    row.iter().copied().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best })
}

fn curve(mut found: Found) -> PrecisionRecall {
    found.predictions.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut right, mut wrong) = (0.0, 0.0);
    let mut precision = Vec::with_capacity(found.predictions.len());
    let mut recall = Vec::with_capacity(found.predictions.len());
    for (_, outcome) in found.predictions {
        match outcome {
            Some(true) => right += 1.0,
            Some(false) => wrong += 1.0,
            None => (),
        }
        precision.push(right / (right + wrong));
        recall.push(right / found.objects as f64);
    }
    PrecisionRecall { precision, recall: (found.objects > 0).then_some(recall) }
}

/// The average precision of every label; nan for absent ones.
pub fn calc_detection_voc_ap(curves: &[Option<PrecisionRecall>], use_07_metric: bool) -> Vec<f64> {
    let one = |curve: &Option<PrecisionRecall>| match curve {
        Some(PrecisionRecall { precision, recall: Some(recall) }) => {
            average_precision(precision, recall, use_07_metric)
        }
        _ => f64::NAN,
    };
    curves.iter().map(one).collect()
}

/// The average of a curve: over eleven recall levels (VOC 2007), or the area under it.
pub fn average_precision(precision: &[f64], recall: &[f64], use_07_metric: bool) -> f64 {
    let precision = precision.iter().map(|&p| if p.is_nan() { 0.0 } else { p });
    let points: Vec<(f64, f64)> = recall.iter().copied().zip(precision).collect();
    if use_07_metric {
        let best_from = |level: f64| points.iter().filter(|(r, _)| *r >= level).map(|(_, p)| *p).fold(0.0, f64::max);
        return (0..11).map(|i| best_from(f64::from(i) * 0.1) / 11.0).sum();
    }
    // The envelope from the right, and a step wherever the recall grows.
    let mut area = 0.0;
    let mut steps = Vec::new();
    let mut best: f64 = 0.0;
    for (i, &(recall, precision)) in points.iter().enumerate().rev() {
        best = best.max(precision);
        let before = if i == 0 { 0.0 } else { points[i - 1].0 };
        if recall != before {
            steps.push((recall - before) * best);
        }
    }
    for step in steps.iter().rev() {
        area += step;
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(corners: &[[f32; 4]], fields: &[(&str, &[f32])]) -> BoxList {
        let mut list = BoxList::new(Tensor::from_slice(&corners.concat()).view([-1, 4]), (50, 50), Mode::Xyxy).unwrap();
        for (name, values) in fields {
            list.add_field(name, Tensor::from_slice(values));
        }
        list
    }

    #[test]
    fn only_the_best_prediction_of_an_object_is_right_and_difficult_ones_do_not_count() {
        let corners = [[0.0, 0.0, 9.0, 9.0], [20.0, 20.0, 29.0, 29.0]];
        let truth = list(&corners, &[("labels", &[1.0, 1.0]), ("difficult", &[0.0, 1.0])]);
        let predicted = list(
            &[corners[0], corners[0], corners[1], [40.0, 40.0, 45.0, 45.0]],
            &[("labels", &[1.0; 4]), ("scores", &[0.6, 0.9, 0.8, 0.7])],
        );
        let curves = calc_detection_voc_prec_rec(&[predicted], &[truth], 0.5).unwrap();
        assert!(curves[0].is_none());
        let curve = curves[1].as_ref().unwrap();
        assert_eq!(curve.precision, [1.0, 1.0, 0.5, 1.0 / 3.0]);
        assert_eq!(curve.recall.as_deref(), Some(&[1.0; 4][..]));
    }

    #[test]
    fn a_class_predicted_but_never_annotated_is_left_out_of_the_mean() {
        let corners = [[0.0, 0.0, 9.0, 9.0]];
        let truth = list(&corners, &[("labels", &[1.0]), ("difficult", &[0.0])]);
        let predicted = list(&[corners[0], corners[0]], &[("labels", &[1.0, 3.0]), ("scores", &[0.5, 0.5])]);
        let result = eval_detection_voc(&[predicted], &[truth], 0.5, false).unwrap();
        assert_eq!((result.map, result.ap[1], result.ap.len()), (1.0, 1.0, 4));
        assert!(result.ap[3].is_nan());
    }

    #[test]
    fn the_area_is_that_of_the_envelope() {
        let (precision, recall) = ([1.0, 0.5, 2.0 / 3.0], [0.5, 0.5, 1.0]);
        assert!((average_precision(&precision, &recall, false) - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-12);
        assert!((average_precision(&precision, &recall, true) - (6.0 + 5.0 * 2.0 / 3.0) / 11.0).abs() < 1e-12);
    }
}
