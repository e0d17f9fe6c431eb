//! Operations on whole box lists (the original's `structures/boxlist_ops.py`).

use anyhow::{ensure, Context, Result};
use tch::Tensor;

use super::bounding_box::{BoxList, Mode};

/// The boxes with both sides at least `min_size` pixels (inclusive corners: a side is `x2 - x1 + 1`).
///
/// # Errors
/// See [`BoxList::select`].
pub fn remove_small_boxes(list: &BoxList, min_size: f64) -> Result<BoxList> {
    let sides = list.convert(Mode::Xywh).bbox().narrow(1, 2, 2);
    list.select(&sides.ge(min_size).all_dim(1, false))
}

/// Intersection over union of every box of `a` with every box of `b`, `[N, M]`, with inclusive corners.
///
/// # Errors
/// If the lists belong to images of different sizes.
pub fn boxlist_iou(a: &BoxList, b: &BoxList) -> Result<Tensor> {
    ensure!(a.exact_size() == b.exact_size(), "boxlists should have same image size, got {a}, {b}");
    let (a, b) = (a.convert(Mode::Xyxy), b.convert(Mode::Xyxy));
    let (boxes_a, boxes_b) = (a.bbox().unsqueeze(1), b.bbox().unsqueeze(0));
    let top_left = boxes_a.narrow(2, 0, 2).maximum(&boxes_b.narrow(2, 0, 2));
    let bottom_right = boxes_a.narrow(2, 2, 2).minimum(&boxes_b.narrow(2, 2, 2));
    let sides = (bottom_right - top_left + 1).clamp_min(0);
    let intersection = sides.select(2, 0) * sides.select(2, 1);
    let union = a.area().unsqueeze(1) + b.area().unsqueeze(0) - &intersection;
    Ok(intersection / union)
}

/// One list out of several of the same image, mode and fields.
///
/// # Errors
/// If there is no list, if they differ in size, mode or field names, or if a field of more than one list is no tensor.
pub fn cat_boxlist(lists: &[BoxList]) -> Result<BoxList> {
    let first = lists.first().context("no box lists to concatenate")?;
    let sorted = |list: &BoxList| {
        let mut names: Vec<String> = list.fields().iter().map(|n| n.to_string()).collect();
        names.sort();
        names
    };
    for list in &lists[1..] {
        let same = list.exact_size() == first.exact_size() && list.mode() == first.mode();
        ensure!(same && sorted(list) == sorted(first), "only alike box lists concatenate, got {first:?} and {list:?}");
    }
    if lists.len() == 1 {
        return Ok(first.shallow_clone());
    }
    let boxes: Vec<&Tensor> = lists.iter().map(BoxList::bbox).collect();
    let mut joined = first.with_boxes(Tensor::cat(&boxes, 0));
    for name in first.fields() {
        let parts: Result<Vec<&Tensor>> = lists.iter().map(|list| list.tensor_field(name)).collect();
        joined.add_field(name, Tensor::cat(&parts?, 0));
    }
    Ok(joined)
}
