//! From the box head's outputs to detections.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::config::Config;
use crate::modeling::batch::{all_boxes, counted_in_each, indices_of_batch, select_rows_of_all, Rows};
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::utils::select_detections;
use crate::structures::{BoxList, Mode};

use super::loss::make_roi_box_coder;

/// Decodes boxes, drops low scores, applies NMS per class and limits the number of detections per image.
#[derive(Clone, Debug)]
pub struct PostProcessor {
    /// Scores must be above it.
    pub score_thresh: f64,
    /// The IoU from which a box suppresses another of its class.
    pub nms: f64,
    /// Detections per image; 0: no limit.
    pub detections_per_img: i64,
    /// How box offsets are decoded.
    pub box_coder: BoxCoder,
    /// Whether one box serves all classes.
    pub cls_agnostic_bbox_reg: bool,
}

impl PostProcessor {
    /// The detections of each image with the fields `scores` and `labels`, ordered by class and then by proposal.
    ///
    /// # Shapes
    /// `class_logits` `[R, classes]`, `box_regression` `[R, 4·classes]` over all images.
    ///
    /// # Errors
    /// As [`unfiltered`](Self::unfiltered) and [`filter_results`](Self::filter_results).
    pub fn detections(
        &self,
        class_logits: &Tensor,
        box_regression: &Tensor,
        proposals: &[BoxList],
    ) -> Result<Vec<BoxList>> {
        let num_classes = class_logits.size()[1];
        let unfiltered = self.unfiltered(class_logits, box_regression, proposals)?;
        self.filter_results(&unfiltered, num_classes)
    }

    /// The box of every proposal for every class (background included), clipped, with the field `scores`:
    /// `R·classes` entries an image, proposals outside, classes inside.
    ///
    /// # Errors
    /// See [`BoxList::new`] and [`BoxList::clip_to_image`].
    pub fn unfiltered(
        &self,
        class_logits: &Tensor,
        box_regression: &Tensor,
        proposals: &[BoxList],
    ) -> Result<Vec<BoxList>> {
        let class_prob = class_logits.softmax(-1, None::<Kind>);
        let num_classes = class_prob.size()[1];
        let boxes = all_boxes(proposals);
        let decoded = if self.cls_agnostic_bbox_reg {
            let last = box_regression.narrow(1, box_regression.size()[1] - 4, 4);
            self.box_coder.decode(&last, &boxes).repeat([1, num_classes])
        } else {
            self.box_coder.decode(box_regression, &boxes)
        };
        let rows = Rows::of_boxes(proposals);
        proposals
            .iter()
            .zip(rows.split(&decoded).iter().zip(rows.split(&class_prob)))
            .map(|(proposals, (boxes, scores))| {
                let mut boxlist = BoxList::new(boxes.reshape([-1, 4]), proposals.size(), Mode::Xyxy)?;
                boxlist.add_field("scores", scores.reshape([-1]));
                boxlist.clip_to_image(false)
            })
            .collect()
    }

    /// Score threshold, NMS per class (background left out) and limit, over a list for each image as
    /// [`unfiltered`](Self::unfiltered) gives them.
    ///
    /// # Errors
    /// A list without the field `scores`.
    pub fn filter_results(&self, boxlists: &[BoxList], num_classes: i64) -> Result<Vec<BoxList>> {
        // Candidates by class, within a class in the order of the proposals.
        let above = boxlists.iter().map(|boxes| {
            let scores = boxes.tensor_field("scores")?.reshape([-1, num_classes]);
            Ok(scores.transpose(0, 1).narrow(0, 1, num_classes - 1).gt(self.score_thresh).flatten(0, -1))
        });
        let above = above.collect::<Result<Vec<_>>>()?;
        let (places, found) = indices_of_batch(&above);
        let proposals: Vec<i64> = boxlists.iter().map(|boxes| boxes.len() as i64 / num_classes).collect();
        let places = counted_in_each(&places, &found, &above);
        let of_image = found.spread(&proposals, places.device()).clamp_min(1);
        let labels = places.divide_tensor_mode(&of_image, "floor") + 1;
        let rows = places.remainder_tensor(&of_image) * num_classes + &labels;
        let rows = found.shift(&rows, &Rows::of_boxes(boxlists).starts());
        let mut candidates = select_rows_of_all(boxlists, &rows, &found)?;
        candidates.iter_mut().zip(found.split(&labels)).for_each(|(boxes, labels)| boxes.add_field("labels", labels));
        let most_of_label = proposals.into_iter().max().unwrap_or(0);
        select_detections(&candidates, num_classes, most_of_label, self.nms, self.detections_per_img)
    }
}

/// The post-processing of `MODEL.ROI_HEADS`.
///
/// # Errors
/// Other than four box weights.
pub fn make_roi_box_post_processor(cfg: &Config) -> Result<PostProcessor> {
    let roi_heads = &cfg.model.roi_heads;
    Ok(PostProcessor {
        score_thresh: roi_heads.score_thresh,
        nms: roi_heads.nms,
        detections_per_img: roi_heads.detections_per_img,
        box_coder: make_roi_box_coder(cfg)?,
        cls_agnostic_bbox_reg: cfg.model.cls_agnostic_bbox_reg,
    })
}
