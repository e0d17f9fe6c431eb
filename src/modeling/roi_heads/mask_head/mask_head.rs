//! The mask head as one module.

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::batch::{all_of_field, indices_of_batch, select_rows_of_all, Rows};
use crate::modeling::detector::Losses;
use crate::modeling::poolers::RoiHead;
use crate::modeling::registry::{FeatureMaps, ModelRegistries};
use crate::modeling::roi_heads::box_head::box_head::BoxHeadTraining;
use crate::modeling::roi_heads::map_head::{MapHead, MapHeadParts, SharedExtractor};
use crate::structures::BoxList;

use super::inference::{make_roi_mask_post_processor, MaskPostProcessor};
use super::loss::MaskRcnnLossComputation;

/// Feature extractor (its own, or the box head's), predictor, post-processing and loss of the mask head.
pub struct RoiMaskHead {
    maps: MapHead,
    post_processor: MaskPostProcessor,
    loss_evaluator: MaskRcnnLossComputation,
}

/// The proposals with a class, per image, and their rows among all proposals.
///
/// # Errors
/// Proposals without the field `labels`.
pub fn keep_only_positive_boxes(proposals: &[BoxList]) -> Result<(Vec<BoxList>, Tensor)> {
    let positive = all_of_field(proposals, "labels")?.gt(0);
    let (rows, found) = indices_of_batch(&Rows::of_boxes(proposals).split(&positive));
    Ok((select_rows_of_all(proposals, &rows, &found)?, rows))
}

impl RoiMaskHead {
    /// Targets and loss.
    pub fn loss_evaluator(&self) -> &MaskRcnnLossComputation {
        &self.loss_evaluator
    }

    /// `loss_mask` of the positive proposals among those that the box head sampled.
    ///
    /// # Errors
    /// Ground truth without the field `masks`.
    pub fn losses(&self, features: &[Tensor], from_box_head: &BoxHeadTraining, targets: &[BoxList]) -> Result<Losses> {
        let (positives, rows) = keep_only_positive_boxes(&from_box_head.proposals)?;
        let mask_logits = self.maps.train(features, from_box_head, &positives, &rows)?;
        Ok(vec![("loss_mask".into(), self.loss_evaluator.loss(&positives, &mask_logits, targets)?)])
    }

    /// The detections with the field `mask` (see [`MaskPostProcessor::detections`]).
    ///
    /// # Errors
    /// Fewer maps than the pooler has scales, or detections without the field `labels`.
    pub fn detect(&self, features: &[Tensor], detections: Vec<BoxList>) -> Result<Vec<BoxList>> {
        self.post_processor.detections(&self.maps.predict(features, &detections)?, detections)
    }
}

/// The mask head of `MODEL.ROI_MASK_HEAD`; `shared` is the box head's extractor if it is to be used.
///
/// # Errors
/// Unknown names of extractor or predictor, or keys that contradict each other or the maps: masks of another resolution
/// than the targets' (`RESOLUTION`), a shared extractor that gives vectors.
pub fn build_roi_mask_head(
    cfg: &Config,
    path: &ParamPath,
    maps: &FeatureMaps,
    registries: &ModelRegistries,
    shared: Option<SharedExtractor>,
) -> Result<RoiMaskHead> {
    let head = &cfg.model.roi_mask_head;
    let parts = MapHeadParts {
        head: RoiHead::Mask,
        feature_extractor: &head.feature_extractor,
        predictor: &head.predictor,
        resolution: head.resolution,
        feature_extractors: &registries.mask_feature_extractors,
        predictors: &registries.mask_predictors,
    };
    Ok(RoiMaskHead {
        maps: MapHead::new(cfg, path, maps, parts, shared)?,
        post_processor: make_roi_mask_post_processor(cfg),
        loss_evaluator: MaskRcnnLossComputation::new(head.resolution),
    })
}
