//! The heads together.

use anyhow::{ensure, Context, Result};
use tch::Tensor;

use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::detector::Losses;
use crate::modeling::registry::{FeatureMaps, ModelRegistries};
use crate::structures::BoxList;

use super::box_head::{build_roi_box_head, roi_box_feature_extractors, roi_box_predictors, RoiBoxHead};
use super::keypoint_head::{
    build_roi_keypoint_head, roi_keypoint_feature_extractors, roi_keypoint_predictors, RoiKeypointHead,
};
use super::map_head::SharedExtractor;
use super::mask_head::{build_roi_mask_head, roi_mask_feature_extractors, roi_mask_predictors, RoiMaskHead};

/// The box head, and the mask and keypoint heads that are on.
pub struct CombinedRoiHeads {
    /// Classes and boxes.
    pub r#box: RoiBoxHead,
    /// Masks, with `MODEL.MASK_ON`.
    pub mask: Option<RoiMaskHead>,
    /// Keypoints, with `MODEL.KEYPOINT_ON`.
    pub keypoint: Option<RoiKeypointHead>,
}

impl CombinedRoiHeads {
    /// The losses of all heads.
    ///
    /// # Errors
    /// Ground truth without a field that a head needs.
    pub fn losses(&self, features: &[Tensor], proposals: &[BoxList], targets: &[BoxList]) -> Result<Losses> {
        let mut from_box_head = self.r#box.losses(features, proposals, targets)?;
        let mut losses = std::mem::take(&mut from_box_head.losses);
        if let Some(mask) = &self.mask {
            losses.extend(mask.losses(features, &from_box_head, targets)?);
        }
        if let Some(keypoint) = &self.keypoint {
            losses.extend(keypoint.losses(features, &from_box_head, targets)?);
        }
        Ok(losses)
    }

    /// The detections of each image with the fields of all heads.
    ///
    /// # Errors
    /// Fewer maps than the poolers have scales.
    pub fn detect(&self, features: &[Tensor], proposals: &[BoxList]) -> Result<Vec<BoxList>> {
        self.detect_from_boxes(features, self.r#box.detect(features, proposals)?)
    }

    /// Adds what the mask and keypoint heads find in given detections.
    ///
    /// # Errors
    /// As [`detect`](Self::detect); or detections without the field `labels`.
    pub fn detect_from_boxes(&self, features: &[Tensor], mut detections: Vec<BoxList>) -> Result<Vec<BoxList>> {
        if let Some(mask) = &self.mask {
            detections = mask.detect(features, detections)?;
        }
        if let Some(keypoint) = &self.keypoint {
            detections = keypoint.detect(features, detections)?;
        }
        Ok(detections)
    }
}

/// Adds the built-in feature extractors and predictors.
pub fn register(registries: &mut ModelRegistries) {
    roi_box_feature_extractors::register(registries);
    roi_box_predictors::register(registries);
    roi_mask_feature_extractors::register(registries);
    roi_mask_predictors::register(registries);
    roi_keypoint_feature_extractors::register(registries);
    roi_keypoint_predictors::register(registries);
}

/// The heads that the configuration asks for; none for RetinaNet and RPN-only models.
///
/// # Errors
/// Unknown names, or keys that contradict each other or the maps.
pub fn build_roi_heads(
    cfg: &Config,
    path: &ParamPath,
    maps: &FeatureMaps,
    registries: &ModelRegistries,
) -> Result<Option<CombinedRoiHeads>> {
    let model = &cfg.model;
    for (on, key) in [(model.retinanet_on, "MODEL.RETINANET_ON"), (model.rpn_only, "MODEL.RPN_ONLY")] {
        if on {
            check_nothing_needs_boxes(cfg, key)?;
            return Ok(None);
        }
    }
    let box_path = path.sub("box");
    let r#box = build_roi_box_head(cfg, &box_path, maps, registries)?;
    let shared = |share: bool| {
        share.then(|| SharedExtractor {
            extractor: r#box.feature_extractor().clone(),
            path: box_path.sub("feature_extractor"),
        })
    };
    let mask = model.mask_on.then(|| {
        let shared = shared(model.roi_mask_head.share_box_feature_extractor);
        build_roi_mask_head(cfg, &path.sub("mask"), maps, registries, shared).context("building the mask head")
    });
    let mask = mask.transpose()?;
    let keypoint = model.keypoint_on.then(|| {
        let shared = shared(model.roi_keypoint_head.share_box_feature_extractor);
        build_roi_keypoint_head(cfg, &path.sub("keypoint"), maps, registries, shared)
            .context("building the keypoint head")
    });
    let keypoint = keypoint.transpose()?;
    Ok(Some(CombinedRoiHeads { r#box, mask, keypoint }))
}

/// Fails where a model that `key` leaves without a box head is to do what needs one.
fn check_nothing_needs_boxes(cfg: &Config, key: &str) -> Result<()> {
    for (on, wish) in [
        (cfg.model.mask_on, "MODEL.MASK_ON"),
        (cfg.model.keypoint_on, "MODEL.KEYPOINT_ON"),
        (cfg.test.bbox_aug.enabled, "TEST.BBOX_AUG.ENABLED"),
    ] {
        ensure!(!on, "{key} leaves out the box head, which {wish} needs: set one of the two to False");
    }
    Ok(())
}
