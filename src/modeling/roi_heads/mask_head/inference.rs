//! From mask logits to the masks of detections.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::config::Config;
use crate::layers::full_precision;
use crate::modeling::batch::Rows;
use crate::structures::{BoxList, Masker};

/// Gives each detection the mask of its class: probabilities in the frame of its box, or (with a masker) pixels of the
/// image that the network saw.
#[derive(Clone, Debug)]
pub struct MaskPostProcessor {
    masker: Option<Masker>,
}

impl MaskPostProcessor {
    /// With a masker, masks are pasted into the image.
    pub fn new(masker: Option<Masker>) -> Self {
        Self { masker }
    }

    /// The detections with the field `mask`: `[n, 1, M, M]` probabilities, or with a masker `[n, 1, H, W]` bool.
    ///
    /// # Shapes
    /// `mask_logits` `[R, classes, M, M]` for the detections of all images.
    ///
    /// # Errors
    /// Detections without the field `labels`.
    pub fn detections(&self, mask_logits: &Tensor, boxes: Vec<BoxList>) -> Result<Vec<BoxList>> {
        let labels = boxes.iter().map(|b| b.tensor_field("labels")).collect::<Result<Vec<_>>>()?;
        let labels = Tensor::cat(&labels, 0);
        let row = Tensor::arange(labels.size()[0], (Kind::Int64, labels.device()));
        // The class is picked first, so that the sigmoid sees one map per detection.
        let mask_prob = full_precision(&mask_logits.index(&[Some(row), Some(labels)])).sigmoid().unsqueeze(1);
        let mask_prob = Rows::of_boxes(&boxes).split(&mask_prob);
        boxes
            .into_iter()
            .zip(mask_prob)
            .map(|(mut boxes, prob)| {
                let mask = match &self.masker {
                    Some(masker) => masker.forward_single_image(&prob, &boxes)?,
                    None => prob,
                };
                boxes.add_field("mask", mask);
                Ok(boxes)
            })
            .collect()
    }
}

/// The post-processing of `MODEL.ROI_MASK_HEAD`.
pub fn make_roi_mask_post_processor(cfg: &Config) -> MaskPostProcessor {
    let head = &cfg.model.roi_mask_head;
    MaskPostProcessor::new(head.postprocess_masks.then(|| Masker::new(head.postprocess_masks_threshold, 1)))
}
