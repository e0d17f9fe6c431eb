//! Operations on whole box lists (the original's `structures/boxlist_ops.py`).

use anyhow::{ensure, Context, Result};
use tch::Tensor;

use super::bounding_box::{BoxList, Mode};
use crate::layers::nms;

/// Non-maximum suppression by the scores in `score_field`; the survivors stay in the list's order, of which the first
/// `max_proposals` are kept (all of them if it is not positive). A threshold of 0 or less returns the list unchanged.
///
/// # Errors
/// If `score_field` is missing or no tensor.
pub fn boxlist_nms(list: &BoxList, threshold: f64, max_proposals: i64, score_field: &str) -> Result<BoxList> {
    if threshold <= 0.0 {
        return Ok(list.shallow_clone());
    }
    let corners = list.convert(Mode::Xyxy);
    let mut keep = nms(corners.bbox(), corners.tensor_field(score_field)?, threshold);
    if max_proposals > 0 {
        keep = keep.narrow(0, 0, max_proposals.min(keep.size()[0]));
    }
    Ok(corners.select(&keep)?.convert(list.mode()))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn list(corners: &[[f32; 4]]) -> BoxList {
        BoxList::new(Tensor::from_slice(&corners.concat()).view([-1, 4]), (40, 30), Mode::Xyxy).unwrap()
    }

    #[test]
    fn a_box_overlaps_itself_fully_and_a_distant_one_not_at_all() {
        let boxes = list(&[[0.0, 0.0, 9.0, 9.0], [20.0, 20.0, 29.0, 24.0]]);
        let iou = Vec::<f32>::try_from(boxlist_iou(&boxes, &boxes).unwrap().view(-1)).unwrap();
        assert_eq!(iou, [1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn nms_counts_the_limit_in_list_order() {
        let mut boxes = list(&[[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0], [20.0, 20.0, 29.0, 24.0]]);
        boxes.add_field("scores", Tensor::from_slice(&[0.1f32, 0.9, 0.5]));
        let scores = |list: BoxList| Vec::<f32>::try_from(list.tensor_field("scores").unwrap()).unwrap();
        assert_eq!(scores(boxlist_nms(&boxes, 0.5, -1, "scores").unwrap()), [0.9, 0.5]);
        assert_eq!(scores(boxlist_nms(&boxes, 0.5, 1, "scores").unwrap()), [0.9]);
        assert_eq!(scores(boxlist_nms(&boxes, 0.0, 1, "scores").unwrap()), [0.1, 0.9, 0.5]);
        assert!(boxlist_nms(&boxes, 0.5, 1, "objectness").is_err());
    }

    #[test]
    fn concatenation_wants_lists_alike() {
        let mut scored = list(&[[0.0, 0.0, 9.0, 9.0]]);
        scored.add_field("scores", Tensor::from_slice(&[0.5f32]));
        assert!(cat_boxlist(&[]).is_err());
        assert!(cat_boxlist(&[scored.shallow_clone(), list(&[])]).is_err());
        let both = cat_boxlist(&[scored.shallow_clone(), scored]).unwrap();
        assert_eq!((both.len(), both.tensor_field("scores").unwrap().size()), (2, vec![2]));
    }

    #[test]
    fn small_boxes_are_those_with_a_side_below_the_limit() {
        let boxes = list(&[[0.0, 0.0, 4.0, 9.0], [0.0, 0.0, 5.0, 5.0]]);
        assert_eq!(remove_small_boxes(&boxes, 6.0).unwrap().len(), 1);
    }
}
