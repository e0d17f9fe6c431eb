//! The heads together.

use std::rc::Rc;

use anyhow::{ensure, Context, Result};
use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::detector::Losses;
use crate::modeling::registry::{ModelRegistries, RoiFeatureExtractor, RoiMapPredictor};
use crate::structures::{BoxList, Mode};

use super::box_head::{build_roi_box_head, roi_box_feature_extractors, roi_box_predictors, RoiBoxHead};
use super::keypoint_head::{
    build_roi_keypoint_head, roi_keypoint_feature_extractors, roi_keypoint_predictors, RoiKeypointHead,
};
use super::mask_head::{build_roi_mask_head, roi_mask_feature_extractors, roi_mask_predictors, RoiMaskHead};

/// The box head's extractor, for a head that shares it.
pub struct SharedExtractor {
    extractor: Rc<dyn RoiFeatureExtractor>,
    path: ParamPath,
}

impl SharedExtractor {
    /// Lists the extractor's parameters again under `path`, as the original's `state_dict` does.
    pub fn register_as(self, path: &ParamPath) -> Rc<dyn RoiFeatureExtractor> {
        path.alias(&self.path);
        self.extractor
    }
}

/// Fails where a head's maps have another side than `RESOLUTION`, that of their targets, or where a shared extractor
/// gives vectors, of which no maps can be made. Finds out by a run over one region of an empty image.
///
/// # Errors
/// The message names the keys (of section `key`), and the side found and wanted.
pub(crate) fn check_map_side(
    cfg: &Config,
    key: &str,
    resolution: i64,
    extractor: &dyn RoiFeatureExtractor,
    predictor: &dyn RoiMapPredictor,
    (in_channels, device): (i64, Device),
) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let options = (Kind::Float, device);
    let model = &cfg.model;
    // As many maps as any head pools from; a shared extractor has the box head's scales.
    let scales =
        [&model.roi_box_head.pooler_scales, &model.roi_mask_head.pooler_scales, &model.roi_keypoint_head.pooler_scales];
    let levels = scales.iter().map(|s| s.len()).max().unwrap_or(1);
    let features: Vec<Tensor> = (0..levels).map(|_| Tensor::zeros([1, in_channels, 2, 2], options)).collect();
    let region = BoxList::new(Tensor::zeros([1, 4], options), (32, 32), Mode::Xyxy)?;
    let x = extractor.forward(&features, &[region], false)?;
    ensure!(
        x.dim() == 4,
        "{key}.SHARE_BOX_FEATURE_EXTRACTOR needs a box feature extractor that gives maps, but \
         MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR gives vectors: set it to False"
    );
    let side = predictor.forward(&x, false).size()[2];
    ensure!(
        side == resolution,
        "{key}.RESOLUTION is {resolution}, but the head's maps are {side} wide: set it to {side}, or change \
         POOLER_RESOLUTION, the feature extractor, or MODEL.RESNETS.RES5_DILATION"
    );
    Ok(())
}

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
    pub fn detect(&self, features: &[Tensor], proposals: &[BoxList]) -> Result<Vec<BoxList>> {
        self.detect_from_boxes(features, self.r#box.detect(features, proposals)?)
    }

    /// Adds what the mask and keypoint heads find in given detections.
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
/// Unknown names, or keys that contradict each other.
pub fn build_roi_heads(
    cfg: &Config,
    path: &ParamPath,
    in_channels: i64,
    registries: &ModelRegistries,
) -> Result<Option<CombinedRoiHeads>> {
    let model = &cfg.model;
    if model.retinanet_on {
        return Ok(None);
    }
    if model.rpn_only {
        ensure!(
            !model.mask_on && !model.keypoint_on,
            "MODEL.RPN_ONLY leaves out the box head, which MODEL.MASK_ON and MODEL.KEYPOINT_ON need"
        );
        return Ok(None);
    }
    let box_path = path.sub("box");
    let r#box = build_roi_box_head(cfg, &box_path, in_channels, registries)?;
    let shared = |share: bool| {
        share.then(|| SharedExtractor {
            extractor: r#box.feature_extractor().clone(),
            path: box_path.sub("feature_extractor"),
        })
    };
    let mask = model.mask_on.then(|| {
        let shared = shared(model.roi_mask_head.share_box_feature_extractor);
        build_roi_mask_head(cfg, &path.sub("mask"), in_channels, registries, shared).context("building the mask head")
    });
    let mask = mask.transpose()?;
    let keypoint = model.keypoint_on.then(|| {
        let shared = shared(model.roi_keypoint_head.share_box_feature_extractor);
        build_roi_keypoint_head(cfg, &path.sub("keypoint"), in_channels, registries, shared)
            .context("building the keypoint head")
    });
    let keypoint = keypoint.transpose()?;
    Ok(Some(CombinedRoiHeads { r#box, mask, keypoint }))
}
