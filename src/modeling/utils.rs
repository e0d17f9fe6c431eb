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
