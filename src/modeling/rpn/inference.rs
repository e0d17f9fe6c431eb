//! From the RPN's outputs to proposals: the best anchors of each level, decoded, clipped and thinned out by NMS.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::layers::{nms_mask, NmsGroups};
use crate::modeling::batch::{indices_of_batch, select_rows_of_all, Rows};
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::utils::cat;
use crate::structures::{cat_boxlist, to_device, BoxList, ImageList, Mode};

use super::utils::AnchorPredictions;

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
    /// `anchors`: one `[H·W·A, 4]` per level.
    ///
    /// # Errors
    /// See [`BoxList::new`] and [`BoxList::select`].
    pub fn select(
        &self,
        images: &ImageList,
        anchors: &[Tensor],
        predictions: &AnchorPredictions,
    ) -> Result<Vec<BoxList>> {
        let _no_grad = tch::no_grad_guard();
        let number = images.len() as i64;
        let of_levels = Rows::of(anchors);
        let probabilities = predictions.objectness.sigmoid().split_with_sizes(of_levels.lengths(), 1);
        let (mut scores, mut places, mut levels) = (Vec::new(), Vec::new(), Vec::new());
        for (level, (probabilities, start)) in (0..).zip(probabilities.iter().zip(of_levels.starts())) {
            let (best_scores, best) = best_anchors(probabilities, self.pre_nms_top_n.min(probabilities.size()[1]));
            levels.push(Tensor::full([best.size()[1]], level, (Kind::Int64, best.device())));
            places.push(if start == 0 { best } else { best + start });
            scores.push(best_scores);
        }
        let lengths: Vec<i64> = levels.iter().map(|level| level.size()[0]).collect();
        let (scores, places) = (cat(&scores, 1), cat(&places, 1));
        let codes = predictions.box_regression.gather(1, &places.unsqueeze(2).expand([-1, -1, 4], false), false);
        let references = cat(anchors, 0).index_select(0, &places.flatten(0, 1));
        let boxes = self.box_coder.decode(&codes.flatten(0, 1), &references).view([number, -1, 4]);
        let sizes: Vec<(i64, i64)> = images.image_sizes.iter().map(|(height, width)| (*width, *height)).collect();
        let limits = greatest_corners(&sizes, boxes.device()).unsqueeze(1);
        let boxes = boxes.clamp_min(0).minimum(&limits);
        let survivors = self.survivors(&boxes, &scores, &cat(&levels, 0), &lengths);
        let (rows, kept) = indices_of_batch(&survivors.unbind(0));
        let of_each = |values: &Tensor| kept.split(&values.flatten(0, 1).index_select(0, &rows));
        let of_image = |(size, (boxes, scores)): (&(i64, i64), (Tensor, Tensor))| {
            let mut boxlist = BoxList::new(boxes, *size, Mode::Xyxy)?;
            boxlist.add_field("objectness", scores);
            Ok(boxlist)
        };
        let lists = sizes.iter().zip(of_each(&boxes).into_iter().zip(of_each(&scores)));
        let boxlists = lists.map(of_image).collect::<Result<Vec<_>>>()?;
        if anchors.len() > 1 {
            self.select_over_all_levels(boxlists)
        } else {
            Ok(boxlists)
        }
    }

    /// Which boxes are large enough, survive NMS within their image and level, and are among the first of those.
    ///
    /// # Shapes
    /// `boxes` `[N, K, 4]` and `scores` `[N, K]`, level after level; `levels` `[K]` int64 with `lengths` entries of
    /// each → `[N, K]` bool.
    fn survivors(&self, boxes: &Tensor, scores: &Tensor, levels: &Tensor, lengths: &[i64]) -> Tensor {
        let sides = boxes.narrow(2, 2, 2) - boxes.narrow(2, 0, 2) + 1;
        let large = sides.ge(self.min_size).all_dim(2, false);
        if self.nms_thresh <= 0.0 {
            return large;
        }
        let (images, count) = (boxes.size()[0], lengths.len() as i64);
        let first_groups = Tensor::arange(images, (Kind::Int64, levels.device())) * count;
        let of_box = (first_groups.unsqueeze(1) + levels).flatten(0, 1);
        let largest = lengths.iter().copied().max().unwrap_or(0);
        let groups = NmsGroups { of_box: &of_box, count: images * count, largest };
        // After all others of their group (which have a probability) small boxes suppress none of them.
        let scores = scores.masked_fill(&large.logical_not(), -1.0);
        let keep = nms_mask(&boxes.flatten(0, 1), &scores.flatten(0, 1), groups, self.nms_thresh);
        let keep = keep.view_as(&large).logical_and(&large);
        if self.post_nms_top_n <= 0 {
            return keep;
        }
        let by_level = keep.split_with_sizes(lengths, 1);
        let ranks: Vec<Tensor> = by_level.iter().map(|keep| keep.cumsum(1, Kind::Int64)).collect();
        keep.logical_and(&cat(&ranks, 1).le(self.post_nms_top_n))
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
        let (rows, kept) = indices_of_batch(&keep.split_with_sizes(&sizes[..], 0));
        select_rows_of_all(&boxlists, &rows, &kept)
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
///
/// # Errors
/// Proposals with other fields than `objectness`, or of another mode or image size than the ground truth.
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

/// The greatest coordinates in images of the given (width, height).
///
/// # Shapes
/// → `[N, 4]` float32: x, y, x, y.
fn greatest_corners(sizes: &[(i64, i64)], device: Device) -> Tensor {
    let corners: Vec<f32> = sizes.iter().flat_map(|(w, h)| [w - 1, h - 1, w - 1, h - 1]).map(|v| v as f32).collect();
    to_device(&Tensor::from_slice(&corners).view([-1, 4]), device)
}
