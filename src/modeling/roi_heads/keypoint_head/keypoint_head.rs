//! The keypoint head as one module.

use std::rc::Rc;

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::detector::Losses;
use crate::modeling::registry::{ModelRegistries, RoiFeatureExtractor, RoiMapPredictor};
use crate::modeling::roi_heads::box_head::box_head::BoxHeadTraining;
use crate::modeling::roi_heads::roi_heads::{check_map_side, SharedExtractor};
use crate::structures::BoxList;

use super::inference::keypoint_detections;
use super::loss::{make_roi_keypoint_loss_evaluator, KeypointRcnnLossComputation};

/// Feature extractor (its own, or the box head's), predictor, decoding and loss of the keypoint head.
pub struct RoiKeypointHead {
    feature_extractor: Rc<dyn RoiFeatureExtractor>,
    shares_box_feature_extractor: bool,
    predictor: Box<dyn RoiMapPredictor>,
    loss_evaluator: KeypointRcnnLossComputation,
}

impl RoiKeypointHead {
    /// Sampling, targets and loss.
    pub fn loss_evaluator(&self) -> &KeypointRcnnLossComputation {
        &self.loss_evaluator
    }

    /// Heat maps `[R, K, S, S]` of the boxes of all images.
    pub fn predict(&self, features: &[Tensor], boxes: &[BoxList]) -> Result<Tensor> {
        Ok(self.predictor.forward(&self.feature_extractor.forward(features, boxes, false)?, false))
    }

    /// `loss_kp` of positives among the proposals that the box head sampled. A shared extractor is not run again: the
    /// box head's features are reused.
    ///
    /// # Errors
    /// Ground truth without the field `keypoints`.
    pub fn losses(&self, features: &[Tensor], from_box_head: &BoxHeadTraining, targets: &[BoxList]) -> Result<Losses> {
        let samples = self.loss_evaluator.subsample(&from_box_head.proposals, targets)?;
        let x = if self.shares_box_feature_extractor {
            from_box_head.features.index_select(0, &samples.rows)
        } else {
            self.feature_extractor.forward(features, &samples.proposals, true)?
        };
        let keypoint_logits = self.predictor.forward(&x, true);
        Ok(vec![("loss_kp".into(), self.loss_evaluator.loss(&samples.proposals, &keypoint_logits)?)])
    }

    /// The detections with the field `keypoints` (see [`keypoint_detections`]).
    pub fn detect(&self, features: &[Tensor], detections: Vec<BoxList>) -> Result<Vec<BoxList>> {
        keypoint_detections(&self.predict(features, &detections)?, detections)
    }
}

/// The keypoint head of `MODEL.ROI_KEYPOINT_HEAD`; `shared` is the box head's extractor if it is to be used.
///
/// # Errors
/// Unknown names of extractor or predictor, or keys that contradict each other: heat maps of another resolution than
/// the targets' (`RESOLUTION`), a shared extractor that gives vectors.
pub fn build_roi_keypoint_head(
    cfg: &Config,
    path: &ParamPath,
    in_channels: i64,
    registries: &ModelRegistries,
    shared: Option<SharedExtractor>,
) -> Result<RoiKeypointHead> {
    let head = &cfg.model.roi_keypoint_head;
    let extractor_path = path.sub("feature_extractor");
    let shares_box_feature_extractor = shared.is_some();
    let feature_extractor = match shared {
        Some(shared) => shared.register_as(&extractor_path),
        None => {
            let build = registries.keypoint_feature_extractors.get(&head.feature_extractor)?;
            build(cfg, &extractor_path, in_channels)?
        }
    };
    let predictor = registries.keypoint_predictors.get(&head.predictor)?;
    let predictor = predictor(cfg, &path.sub("predictor"), feature_extractor.out_channels())?;
    check_map_side(
        cfg,
        "MODEL.ROI_KEYPOINT_HEAD",
        head.resolution,
        feature_extractor.as_ref(),
        predictor.as_ref(),
        (in_channels, path.device()),
    )?;
    Ok(RoiKeypointHead {
        feature_extractor,
        shares_box_feature_extractor,
        predictor,
        loss_evaluator: make_roi_keypoint_loss_evaluator(cfg)?,
    })
}
