//! From the RPN's outputs to proposals: the best anchors of each level, decoded, clipped and thinned out by NMS.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::config::Config;
use crate::modeling::box_coder::BoxCoder;
use crate::structures::{boxlist_nms, cat_boxlist, remove_small_boxes, BoxList, ImageList, Mode};

use super::utils::permute_and_flatten;

/// Selects proposals. Training and inference have their own limits, hence two instances.
#[derive(Clone, Debug)]
pub struct RpnPostProcessor {
    /// Anchors kept per level and image before NMS.
    pub pre_nms_top_n: i64,
    /// Boxes kept per level and image after NMS.
    pub post_nms_top_n: i64,
    /// Boxes kept over all levels: per image, or per batch (see `per_batch`).
    pub fpn_post_nms_top_n: i64,
    /// The IoU from which a box suppresses another of its level.
    pub nms_thresh: f64,
    /// Boxes with a shorter side, in pixels, are dropped.
    pub min_size: i64,
    /// How box offsets are decoded.
    pub box_coder: BoxCoder,
    /// The limit over all levels counts the boxes of the whole batch, as in Detectron; the order of the boxes is kept
    /// then, otherwise they are sorted by objectness.
    pub per_batch: bool,
}

impl RpnPostProcessor {
    /// Proposals of each image, with the field `objectness` (a probability).
    ///
    /// # Shapes
    /// Per level: `anchors` `[H·W·A, 4]`, `objectness` `[N, A, H, W]`, `box_regression` `[N, A·4, H, W]`.
    pub fn select(
        &self,
        images: &ImageList,
        anchors: &[Tensor],
        objectness: &[Tensor],
        box_regression: &[Tensor],
    ) -> Result<Vec<BoxList>> {
        let _no_grad = tch::no_grad_guard();
        let mut per_image: Vec<Vec<BoxList>> = images.image_sizes.iter().map(|_| Vec::new()).collect();
        for ((anchors, objectness), box_regression) in anchors.iter().zip(objectness).zip(box_regression) {
            self.select_level(images, anchors, objectness, box_regression, &mut per_image)?;
        }
        let boxlists = per_image.iter().map(|lists| cat_boxlist(lists)).collect::<Result<Vec<_>>>()?;
        if objectness.len() > 1 {
            self.select_over_all_levels(boxlists)
        } else {
            Ok(boxlists)
        }
    }

    fn select_level(
        &self,
        images: &ImageList,
        anchors: &Tensor,
        objectness: &Tensor,
        box_regression: &Tensor,
        per_image: &mut [Vec<BoxList>],
    ) -> Result<()> {
        let scores = permute_and_flatten(objectness, 1).squeeze_dim(2).sigmoid();
        let codes = permute_and_flatten(box_regression, 4);
        let (scores, best) = best_anchors(&scores, self.pre_nms_top_n.min(anchors.size()[0]));
        for (image, (height, width)) in images.image_sizes.iter().enumerate() {
            let index = best.get(image as i64);
            let codes = codes.get(image as i64).index_select(0, &index);
            let boxes = self.box_coder.decode(&codes, &anchors.index_select(0, &index));
            let mut boxlist = BoxList::new(boxes, (*width, *height), Mode::Xyxy)?;
            boxlist.add_field("objectness", scores.get(image as i64));
            let boxlist = remove_small_boxes(&boxlist.clip_to_image(false)?, self.min_size as f64)?;
            per_image[image].push(boxlist_nms(&boxlist, self.nms_thresh, self.post_nms_top_n, "objectness")?);
        }
        Ok(())
    }

    fn select_over_all_levels(&self, boxlists: Vec<BoxList>) -> Result<Vec<BoxList>> {
        if !self.per_batch {
            return boxlists
                .iter()
                .map(|boxes| {
                    let objectness = boxes.tensor_field("objectness")?;
                    let number = self.fpn_post_nms_top_n.min(objectness.size()[0]);
                    boxes.select(&objectness.topk(number, 0, true, true).1)
                })
                .collect();
        }
        let objectness = boxlists.iter().map(|b| b.tensor_field("objectness")).collect::<Result<Vec<_>>>()?;
        let objectness = Tensor::cat(&objectness, 0);
        let number = self.fpn_post_nms_top_n.min(objectness.size()[0]);
        let best = objectness.topk(number, 0, true, true).1;
        let keep = Tensor::zeros([objectness.size()[0]], (Kind::Bool, objectness.device())).index_fill(0, &best, 1);
        let sizes: Vec<i64> = boxlists.iter().map(|b| b.len() as i64).collect();
        let keep = keep.split_with_sizes(&sizes[..], 0);
        boxlists.iter().zip(&keep).map(|(boxes, keep)| boxes.select(keep)).collect()
    }
}

/// The `number` best scores of each row, descending, with their places; equal ones in the order of the anchors. (Sure
/// objects saturate the sigmoid, and `topk` leaves the order of equal scores to chance, which NMS then depends on.)
fn best_anchors(scores: &Tensor, number: i64) -> (Tensor, Tensor) {
    let places = scores.topk(number, 1, true, false).1.sort(1, false).0;
    let (scores, order) = scores.gather(1, &places, false).sort_stable(true, 1, true);
    (scores, places.gather(1, &order, false))
}

/// Appends the ground truth to the proposals, with objectness 1, so that the heads see some good boxes from the start.
pub fn add_gt_proposals(proposals: &[BoxList], targets: &[BoxList]) -> Result<Vec<BoxList>> {
    proposals
        .iter()
        .zip(targets)
        .map(|(proposals, target)| {
            let mut gt = target.copy_with_fields(&[], false)?.to_device(proposals.bbox().device());
            gt.add_field("objectness", Tensor::ones([gt.len() as i64], (Kind::Float, gt.bbox().device())));
            cat_boxlist(&[proposals.shallow_clone(), gt])
        })
        .collect()
}

/// The selection of `MODEL.RPN` for training or for inference.
pub fn make_rpn_postprocessor(cfg: &Config, box_coder: &BoxCoder, train: bool) -> RpnPostProcessor {
    let rpn = &cfg.model.rpn;
    let pick = |for_train: i64, for_test: i64| if train { for_train } else { for_test };
    RpnPostProcessor {
        pre_nms_top_n: pick(rpn.pre_nms_top_n_train, rpn.pre_nms_top_n_test),
        post_nms_top_n: pick(rpn.post_nms_top_n_train, rpn.post_nms_top_n_test),
        fpn_post_nms_top_n: pick(rpn.fpn_post_nms_top_n_train, rpn.fpn_post_nms_top_n_test),
        nms_thresh: rpn.nms_thresh,
        min_size: rpn.min_size,
        box_coder: box_coder.clone(),
        per_batch: train && rpn.fpn_post_nms_per_batch,
    }
}
