//! Small helpers that several parts of the model share (the original's `modeling/utils.py`).

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::structures::BoxList;

/// Concatenates along `dim`; a single tensor is returned as it is.
pub fn cat(tensors: &[Tensor], dim: i64) -> Tensor {
    match tensors {
        [only] => only.shallow_clone(),
        several => Tensor::cat(several, dim),
    }
}

/// The indices at which a one-dimensional mask is set, ascending.
///
/// # Shapes
/// `mask` `[N]` → `[K]` int64.
pub fn indices_of(mask: &Tensor) -> Tensor {
    mask.nonzero().squeeze_dim(1)
}

/// [`indices_of`] for several masks on the same device, which the program waits for only once.
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

/// The detections of an image whose score is at least the `limit`-th best (so ties can exceed the limit), in their
/// order; all of them for a limit of 0 or below.
///
/// # Errors
/// A list without the field `scores`.
pub fn keep_best(boxes: &BoxList, limit: i64) -> Result<BoxList> {
    let number = boxes.len() as i64;
    if limit <= 0 || number <= limit {
        return Ok(boxes.shallow_clone());
    }
    let scores = boxes.tensor_field("scores")?;
    let threshold = scores.kthvalue(number - limit + 1, 0, false).0;
    boxes.select(&indices_of(&scores.ge_tensor(&threshold)))
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
            assert_eq!((found.kind(), found), (Kind::Int64, &indices_of(mask)));
        }
        assert!(indices_of_all(&[]).is_empty());
    }
}
