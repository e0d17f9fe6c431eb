//! Small helpers that several parts of the model share (the original's `modeling/utils.py`).

use anyhow::{ensure, Result};
use tch::{Kind, Tensor};

use crate::ffi;
use crate::layers::{nms_mask, NmsGroups};
use crate::structures::{BoxList, Mode};

use super::batch::{all_of_field, indices_of_batch, select_rows_of_all, Rows};

/// Concatenates along `dim`. A single tensor is returned as it is, and rows that lie end to end in memory (the parts of
/// what was split) as a view.
///
/// # Panics
/// Without a tensor, or on tensors that do not fit.
pub fn cat(tensors: &[Tensor], dim: i64) -> Tensor {
    match tensors {
        [only] => only.shallow_clone(),
        several if dim == 0 => ffi::cat_rows(several).expect("tensors that fit end to end"),
        several => Tensor::cat(several, dim),
    }
}

/// A zero that depends on every value of `tensor`: the loss of a term without samples, whose gradients are zeros
/// instead of missing.
pub fn zero_loss(tensor: &Tensor) -> Tensor {
    // Multiplied before the sum, so that an overflowing sum cannot turn the zero into nan.
    (tensor * 0.0).sum(Kind::Float)
}

/// Checks numbers of the configuration, given with their keys.
///
/// # Errors
/// The first that is below `least`.
pub fn at_least(least: i64, keys: &[(&str, i64)]) -> Result<()> {
    for (key, value) in keys {
        ensure!(*value >= least, "{key} is {value}; it must be at least {least}");
    }
    Ok(())
}

/// The detections of each image among its candidates (fields `scores` and `labels`, a label having at most
/// `most_of_label` of them): those that survive NMS within their class, and of those the ones whose score is at least
/// the `limit`-th best (so ties can exceed the limit; all of them for a limit of 0 or below). Their order stays. A GPU
/// is waited for once.
///
/// # Errors
/// A list without one of the fields.
pub fn select_detections(
    candidates: &[BoxList],
    num_classes: i64,
    most_of_label: i64,
    nms_thresh: f64,
    limit: i64,
) -> Result<Vec<BoxList>> {
    let survivors = survivors_of_classes(candidates, num_classes, most_of_label, nms_thresh)?;
    let masks = candidates.iter().zip(survivors).map(|(boxes, survivors)| {
        if limit <= 0 || boxes.len() as i64 <= limit {
            return Ok(survivors);
        }
        let scores = boxes.tensor_field("scores")?.where_scalarother(&survivors, f64::NEG_INFINITY);
        let threshold = scores.topk(limit, 0, true, false).0.min();
        Ok(survivors.logical_and(&scores.ge_tensor(&threshold)))
    });
    let masks = masks.collect::<Result<Vec<_>>>()?;
    let (rows, kept) = indices_of_batch(&masks);
    select_rows_of_all(candidates, &rows, &kept)
}

/// NMS within each class of each image, for all images at once: which boxes of each survive, `[N]` bool.
fn survivors_of_classes(
    candidates: &[BoxList],
    num_classes: i64,
    most_of_label: i64,
    threshold: f64,
) -> Result<Vec<Tensor>> {
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let (scores, labels) = (all_of_field(candidates, "scores")?, all_of_field(candidates, "labels")?);
    let rows = Rows::of_boxes(candidates);
    if threshold <= 0.0 {
        return Ok(rows.split(&scores.ones_like().to_kind(Kind::Bool)));
    }
    let first_groups: Vec<i64> = (0..).take(candidates.len()).map(|image: i64| image * num_classes).collect();
    let groups = rows.shift(&labels, &first_groups);
    let corners: Vec<Tensor> =
        candidates.iter().map(|boxes| boxes.convert(Mode::Xyxy).bbox().shallow_clone()).collect();
    let count = candidates.len() as i64 * num_classes;
    let groups = NmsGroups { of_box: &groups, count, largest: most_of_label };
    Ok(rows.split(&nms_mask(&cat(&corners, 0), &scores, groups, threshold)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_classes_are_thinned_out_alone() -> Result<()> {
        let list = |scores: &[f32], labels: &[i64]| -> Result<BoxList> {
            let corners = [[0f32, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0]].concat();
            let corners = Tensor::from_slice(&corners).view([-1, 4]).narrow(0, 0, scores.len() as i64);
            let mut list = BoxList::new(corners, (40, 30), Mode::Xyxy)?;
            list.add_field("scores", Tensor::from_slice(scores));
            list.add_field("labels", Tensor::from_slice(labels));
            Ok(list)
        };
        let images = [list(&[0.1, 0.9, 0.5], &[2, 1, 2])?, list(&[], &[])?, list(&[0.2, 0.3], &[2, 2])?];
        let kept = |threshold, limit| -> Result<Vec<Vec<f32>>> {
            let kept = select_detections(&images, 3, 2, threshold, limit)?;
            kept.iter().map(|boxes| Ok(Vec::try_from(boxes.tensor_field("scores")?)?)).collect()
        };
        assert_eq!(kept(0.5, 0)?, [vec![0.9, 0.5], vec![], vec![0.3]]);
        assert_eq!(kept(0.5, 1)?, [vec![0.9], vec![], vec![0.3]]);
        assert_eq!(kept(0.0, 2)?, [vec![0.9, 0.5], vec![], vec![0.2, 0.3]]);
        assert!(select_detections(&[], 3, 2, 0.5, 1)?.is_empty());
        Ok(())
    }
}
