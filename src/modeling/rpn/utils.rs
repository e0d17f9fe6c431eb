//! What RPN and RetinaNet share: the order of predictions (the original's `rpn/utils.py`), and encoded targets.

use tch::Tensor;

use crate::layers::full_precision;
use crate::modeling::batch::{all_boxes, Rows};
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::matcher::{rows_of_truth, MatchedTargets};
use crate::modeling::utils::cat;
use crate::structures::BoxList;

/// Puts a prediction map into the order of the anchors: row, column, anchor.
///
/// # Shapes
/// `layer` `[N, A·C, H, W]` → `[N, H·W·A, C]`.
pub fn permute_and_flatten(layer: &Tensor, channels: i64) -> Tensor {
    let (n, _, h, w) = layer.size4().expect("a prediction map has four dimensions");
    layer.reshape([n, -1, channels, h, w]).permute([0, 3, 4, 1, 2]).reshape([n, -1, channels])
}

/// What an RPN head says of every anchor, in the order of the concatenated anchors, in at least float32.
pub struct AnchorPredictions {
    /// `[N, ΣHWA]`: logits.
    pub objectness: Tensor,
    /// `[N, ΣHWA, 4]`: encoded boxes.
    pub box_regression: Tensor,
}

impl AnchorPredictions {
    /// # Shapes
    /// Per level `objectness` `[N, A, H, W]` and `box_regression` `[N, A·4, H, W]`.
    pub fn new((objectness, box_regression): (Vec<Tensor>, Vec<Tensor>)) -> Self {
        let number = objectness.first().map_or(0, |map| map.size()[0]);
        let (objectness, box_regression) = concat_box_prediction_layers(&objectness, &box_regression);
        let of_images = |joined: &Tensor, shape: &[i64]| full_precision(joined).view(shape);
        let anchors = objectness.size()[0] / number.max(1);
        Self {
            objectness: of_images(&objectness, &[number, anchors]),
            box_regression: of_images(&box_regression, &[number, anchors, 4]),
        }
    }
}

/// Joins the predictions of all levels and images in the order of the concatenated anchors.
///
/// # Shapes
/// Per level `box_cls` `[N, A·C, H, W]` and `box_regression` `[N, A·4, H, W]` → `[N·ΣHWA, C]`, `[N·ΣHWA, 4]`.
pub fn concat_box_prediction_layers(box_cls: &[Tensor], box_regression: &[Tensor]) -> (Tensor, Tensor) {
    let mut classes = 1;
    let mut flat_cls = Vec::with_capacity(box_cls.len());
    let mut flat_regression = Vec::with_capacity(box_regression.len());
    for (cls, regression) in box_cls.iter().zip(box_regression) {
        classes = cls.size()[1] / (regression.size()[1] / 4);
        flat_cls.push(permute_and_flatten(cls, classes));
        flat_regression.push(permute_and_flatten(regression, 4));
    }
    (cat(&flat_cls, 1).reshape([-1, classes]), cat(&flat_regression, 1).reshape([-1, 4]))
}

/// The offsets from the positives to the objects that they match, where all images have the same anchors. Only those of
/// the positives are ever needed.
///
/// # Shapes
/// `anchors` `[K, 4]`, `positive` `[P]` int64: rows among the anchors of all images, of which each image has so many
/// (`of_images`) → `[P, 4]`.
pub(super) fn encode_positives(
    box_coder: &BoxCoder,
    anchors: &Tensor,
    prepared: &[MatchedTargets],
    (positive, of_images): (&Tensor, &Rows),
    targets: &[BoxList],
) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let matched = MatchedTargets::all(prepared, |prepared| &prepared.matched_idxs).index_select(0, positive);
    let gt = all_boxes(targets).to_device(anchors.device());
    let gt = gt.index_select(0, &rows_of_truth(&matched, of_images, targets));
    box_coder.encode(&gt, &anchors.index_select(0, &positive.remainder(anchors.size()[0])))
}
