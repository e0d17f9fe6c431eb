//! From the box head's outputs to detections.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::config::Config;
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::utils::{cat, keep_best};
use crate::structures::{boxlist_nms_in_groups, BoxList, Mode};

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
    pub fn detections(
        &self,
        class_logits: &Tensor,
        box_regression: &Tensor,
        proposals: &[BoxList],
    ) -> Result<Vec<BoxList>> {
        let num_classes = class_logits.size()[1];
        let unfiltered = self.unfiltered(class_logits, box_regression, proposals)?;
        unfiltered.iter().map(|boxes| self.filter_results(boxes, num_classes)).collect()
    }

    /// The box of every proposal for every class (background included), clipped, with the field `scores`:
    /// `R·classes` entries an image, proposals outside, classes inside.
    pub fn unfiltered(
        &self,
        class_logits: &Tensor,
        box_regression: &Tensor,
        proposals: &[BoxList],
    ) -> Result<Vec<BoxList>> {
        let class_prob = class_logits.softmax(-1, None::<Kind>);
        let num_classes = class_prob.size()[1];
        let boxes: Vec<Tensor> = proposals.iter().map(|p| p.bbox().shallow_clone()).collect();
        let decoded = if self.cls_agnostic_bbox_reg {
            let last = box_regression.narrow(1, box_regression.size()[1] - 4, 4);
            self.box_coder.decode(&last, &cat(&boxes, 0)).repeat([1, num_classes])
        } else {
            self.box_coder.decode(box_regression, &cat(&boxes, 0))
        };
        let per_image: Vec<i64> = proposals.iter().map(|p| p.len() as i64).collect();
        let decoded = decoded.split_with_sizes(&per_image[..], 0);
        let class_prob = class_prob.split_with_sizes(&per_image[..], 0);
        proposals
            .iter()
            .zip(decoded.iter().zip(&class_prob))
            .map(|(proposals, (boxes, scores))| {
                let mut boxlist = BoxList::new(boxes.reshape([-1, 4]), proposals.size(), Mode::Xyxy)?;
                boxlist.add_field("scores", scores.reshape([-1]));
                boxlist.clip_to_image(false)
            })
            .collect()
    }

    /// Score threshold, NMS per class (background left out) and limit, over a list as
    /// [`unfiltered`](Self::unfiltered) gives it.
    pub fn filter_results(&self, boxlist: &BoxList, num_classes: i64) -> Result<BoxList> {
        let scores = boxlist.tensor_field("scores")?.reshape([-1, num_classes]);
        // Candidates by class, within a class in the order of the proposals.
        let places = scores.transpose(0, 1).narrow(0, 1, num_classes - 1).gt(self.score_thresh).nonzero();
        let labels = places.select(1, 0) + 1;
        let mut candidates = boxlist.select(&(places.select(1, 1) * num_classes + &labels))?;
        candidates.add_field("labels", labels.shallow_clone());
        let survivors = boxlist_nms_in_groups(&candidates, &labels, num_classes, self.nms, "scores")?;
        keep_best(&survivors, self.detections_per_img)
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
