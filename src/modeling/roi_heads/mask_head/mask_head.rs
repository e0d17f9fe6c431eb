//! The mask head as one module.

use std::rc::Rc;

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::detector::Losses;
use crate::modeling::registry::{ModelRegistries, RoiFeatureExtractor, RoiMapPredictor};
use crate::modeling::roi_heads::box_head::box_head::BoxHeadTraining;
use crate::modeling::roi_heads::roi_heads::{check_map_side, SharedExtractor};
use crate::modeling::utils::{cat, indices_of};
use crate::structures::BoxList;

use super::inference::{make_roi_mask_post_processor, MaskPostProcessor};
use super::loss::MaskRcnnLossComputation;

/// Feature extractor (its own, or the box head's), predictor, post-processing and loss of the mask head.
pub struct RoiMaskHead {
    feature_extractor: Rc<dyn RoiFeatureExtractor>,
    shares_box_feature_extractor: bool,
    predictor: Box<dyn RoiMapPredictor>,
    post_processor: MaskPostProcessor,
    loss_evaluator: MaskRcnnLossComputation,
}

/// The proposals with a class, per image, and their rows among all proposals.
///
/// # Errors
/// Proposals without the field `labels`.
pub fn keep_only_positive_boxes(proposals: &[BoxList]) -> Result<(Vec<BoxList>, Tensor)> {
    let mut positives = Vec::with_capacity(proposals.len());
    let mut rows = Vec::with_capacity(proposals.len());
    let mut start = 0;
    for boxes in proposals {
        let index = indices_of(&boxes.tensor_field("labels")?.gt(0));
        positives.push(boxes.select(&index)?);
        rows.push(index + start);
        start += boxes.len() as i64;
    }
    Ok((positives, cat(&rows, 0)))
}

impl RoiMaskHead {
    /// Targets and loss.
    pub fn loss_evaluator(&self) -> &MaskRcnnLossComputation {
        &self.loss_evaluator
    }

    /// `loss_mask` of the positive proposals among those that the box head sampled. A shared extractor is not run
    /// again: the box head's features are reused.
    ///
    /// # Errors
    /// Ground truth without the field `masks`.
    pub fn losses(&self, features: &[Tensor], from_box_head: &BoxHeadTraining, targets: &[BoxList]) -> Result<Losses> {
        let (positives, rows) = keep_only_positive_boxes(&from_box_head.proposals)?;
        let x = if self.shares_box_feature_extractor {
            from_box_head.features.index_select(0, &rows)
        } else {
            self.feature_extractor.forward(features, &positives, true)?
        };
        let mask_logits = self.predictor.forward(&x, true);
        Ok(vec![("loss_mask".into(), self.loss_evaluator.loss(&positives, &mask_logits, targets)?)])
    }

    /// The detections with the field `mask` (see [`MaskPostProcessor::detections`]).
    pub fn detect(&self, features: &[Tensor], detections: Vec<BoxList>) -> Result<Vec<BoxList>> {
        let x = self.feature_extractor.forward(features, &detections, false)?;
        self.post_processor.detections(&self.predictor.forward(&x, false), detections)
    }
}

/// The mask head of `MODEL.ROI_MASK_HEAD`; `shared` is the box head's extractor if it is to be used.
///
/// # Errors
/// Unknown names of extractor or predictor, or keys that contradict each other: masks of another resolution than the
/// targets' (`RESOLUTION`), a shared extractor that gives vectors.
pub fn build_roi_mask_head(
    cfg: &Config,
    path: &ParamPath,
    in_channels: i64,
    registries: &ModelRegistries,
    shared: Option<SharedExtractor>,
) -> Result<RoiMaskHead> {
    let head = &cfg.model.roi_mask_head;
    let extractor_path = path.sub("feature_extractor");
    let shares_box_feature_extractor = shared.is_some();
    let feature_extractor = match shared {
        Some(shared) => shared.register_as(&extractor_path),
        None => registries.mask_feature_extractors.get(&head.feature_extractor)?(cfg, &extractor_path, in_channels)?,
    };
    let predictor = registries.mask_predictors.get(&head.predictor)?;
    let predictor = predictor(cfg, &path.sub("predictor"), feature_extractor.out_channels())?;
    check_map_side(
        cfg,
        "MODEL.ROI_MASK_HEAD",
        head.resolution,
        feature_extractor.as_ref(),
        predictor.as_ref(),
        (in_channels, path.device()),
    )?;
    Ok(RoiMaskHead {
        feature_extractor,
        shares_box_feature_extractor,
        predictor,
        post_processor: make_roi_mask_post_processor(cfg),
        loss_evaluator: MaskRcnnLossComputation::new(head.resolution),
    })
}
