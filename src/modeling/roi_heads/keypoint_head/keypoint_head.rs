//! The keypoint head as one module.

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::layers::{full_precision, ParamPath};
use crate::modeling::detector::Losses;
use crate::modeling::poolers::RoiHead;
use crate::modeling::registry::{FeatureMaps, ModelRegistries};
use crate::modeling::roi_heads::box_head::box_head::BoxHeadTraining;
use crate::modeling::roi_heads::map_head::{MapHead, MapHeadParts, SharedExtractor};
use crate::structures::BoxList;

use super::inference::keypoint_detections;
use super::loss::{make_roi_keypoint_loss_evaluator, KeypointRcnnLossComputation};

/// Feature extractor (its own, or the box head's), predictor, decoding and loss of the keypoint head.
pub struct RoiKeypointHead {
    maps: MapHead,
    loss_evaluator: KeypointRcnnLossComputation,
}

impl RoiKeypointHead {
    /// Sampling, targets and loss.
    pub fn loss_evaluator(&self) -> &KeypointRcnnLossComputation {
        &self.loss_evaluator
    }

    /// Heat maps `[R, K, S, S]` of the boxes of all images.
    ///
    /// # Errors
    /// Fewer maps than the pooler has scales.
    pub fn predict(&self, features: &[Tensor], boxes: &[BoxList]) -> Result<Tensor> {
        Ok(full_precision(&self.maps.predict(features, boxes)?))
    }

    /// `loss_kp` of positives among the proposals that the box head sampled.
    ///
    /// # Errors
    /// Ground truth without the field `keypoints`.
    pub fn losses(&self, features: &[Tensor], from_box_head: &BoxHeadTraining, targets: &[BoxList]) -> Result<Losses> {
        let samples = self.loss_evaluator.subsample(&from_box_head.proposals, targets)?;
        let keypoint_logits =
            full_precision(&self.maps.train(features, from_box_head, &samples.proposals, &samples.rows)?);
        Ok(vec![("loss_kp".into(), self.loss_evaluator.loss(&samples.proposals, &keypoint_logits)?)])
    }

    /// The detections with the field `keypoints` (see [`keypoint_detections`]).
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn detect(&self, features: &[Tensor], detections: Vec<BoxList>) -> Result<Vec<BoxList>> {
        keypoint_detections(&self.predict(features, &detections)?, detections)
    }
}

/// The keypoint head of `MODEL.ROI_KEYPOINT_HEAD`; `shared` is the box head's extractor if it is to be used.
///
/// # Errors
/// Unknown names of extractor or predictor, or keys that contradict each other or the maps: heat maps of another
/// resolution than the targets' (`RESOLUTION`), a shared extractor that gives vectors.
pub fn build_roi_keypoint_head(
    cfg: &Config,
    path: &ParamPath,
    maps: &FeatureMaps,
    registries: &ModelRegistries,
    shared: Option<SharedExtractor>,
) -> Result<RoiKeypointHead> {
    let head = &cfg.model.roi_keypoint_head;
    let parts = MapHeadParts {
        head: RoiHead::Keypoint,
        feature_extractor: &head.feature_extractor,
        predictor: &head.predictor,
        resolution: head.resolution,
        feature_extractors: &registries.keypoint_feature_extractors,
        predictors: &registries.keypoint_predictors,
    };
    Ok(RoiKeypointHead {
        maps: MapHead::new(cfg, path, maps, parts, shared)?,
        loss_evaluator: make_roi_keypoint_loss_evaluator(cfg)?,
    })
}
