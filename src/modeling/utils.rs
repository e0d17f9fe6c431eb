//! Small helpers that several parts of the model share (the original's `modeling/utils.py`).

use anyhow::{ensure, Result};
use tch::{Kind, Tensor};

use crate::structures::{boxlist_nms_in_groups, BoxList};

/// Concatenates along `dim`; a single tensor is returned as it is.
pub fn cat(tensors: &[Tensor], dim: i64) -> Tensor {
    match tensors {
        [only] => only.shallow_clone(),
        several => Tensor::cat(several, dim),
    }
}

/// The indices at which each of several one-dimensional masks on the same device is set, ascending. The program waits for
/// the device only once.
///
/// # Shapes
/// Each `[N]` → `[K]` int64.
pub fn indices_of_all(masks: &[Tensor]) -> Vec<Tensor> {
    let counts: Vec<Tensor> = masks.iter().map(|mask| mask.sum(Kind::Int64)).collect();
    if counts.is_empty() {
        return Vec::new();
    }
    let counts = Vec::<i64>::try_from(Tensor::stack(&counts, 0)).expect("a number for each mask");
    masks.iter().zip(counts).map(|(mask, count)| mask.nonzero_static(count, -1).squeeze_dim(1)).collect()
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

/// The detections of each image among its candidates (fields `scores` and `labels`): those that survive NMS within their
/// class, and of those the ones whose score is at least the `limit`-th best (so ties can exceed the limit; all of them for
/// a limit of 0 or below). Their order stays. A GPU is waited for once.
///
/// # Errors
/// A list without one of the fields.
pub fn select_detections(
    candidates: &[BoxList],
    num_classes: i64,
    nms_thresh: f64,
    limit: i64,
) -> Result<Vec<BoxList>> {
    let masks = candidates.iter().map(|boxes| {
        let survivors = boxlist_nms_in_groups(boxes, boxes.tensor_field("labels")?, num_classes, nms_thresh, "scores")?;
        if limit <= 0 || boxes.len() as i64 <= limit {
            return Ok(survivors);
        }
        let scores = boxes.tensor_field("scores")?.where_scalarother(&survivors, f64::NEG_INFINITY);
        let threshold = scores.topk(limit, 0, true, false).0.min();
        Ok(survivors.logical_and(&scores.ge_tensor(&threshold)))
    });
    let masks = masks.collect::<Result<Vec<_>>>()?;
    candidates.iter().zip(indices_of_all(&masks)).map(|(boxes, kept)| boxes.select(&kept)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_masks_have_the_indices_of_each() {
        let masks = [&[true, false, true][..], &[false; 4], &[], &[true]].map(Tensor::from_slice);
        let found = indices_of_all(&masks);
        assert_eq!(found.len(), masks.len());
        for (mask, found) in masks.iter().zip(&found) {
            assert_eq!((found.kind(), found), (Kind::Int64, &mask.nonzero().squeeze_dim(1)));
        }
        assert!(indices_of_all(&[]).is_empty());
    }
}
