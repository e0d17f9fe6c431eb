//! The box head as one module.

use std::rc::Rc;

use anyhow::{ensure, Result};
use tch::Tensor;

use crate::config::Config;
use crate::layers::{full_precision, ParamPath};
use crate::modeling::detector::Losses;
use crate::modeling::registry::{FeatureMaps, ModelRegistries, RoiBoxPredictor, RoiFeatureExtractor};
use crate::structures::BoxList;

use super::inference::{make_roi_box_post_processor, PostProcessor};
use super::loss::{make_roi_box_loss_evaluator, FastRcnnLossComputation};

/// Feature extractor, predictor, post-processing and losses of the box head.
pub struct RoiBoxHead {
    feature_extractor: Rc<dyn RoiFeatureExtractor>,
    predictor: Box<dyn RoiBoxPredictor>,
    post_processor: PostProcessor,
    loss_evaluator: FastRcnnLossComputation,
}

/// What training the box head gives: the sampled proposals, for the other heads, with their features.
pub struct BoxHeadTraining {
    /// `[R, C]` or `[R, C, H, W]`: the extractor's output for all samples.
    pub features: Tensor,
    /// The samples, with the fields that [`FastRcnnLossComputation::subsample`] adds.
    pub proposals: Vec<BoxList>,
    /// `loss_classifier` and `loss_box_reg`.
    pub losses: Losses,
}

impl RoiBoxHead {
    /// The extractor, which other heads may share.
    pub fn feature_extractor(&self) -> &Rc<dyn RoiFeatureExtractor> {
        &self.feature_extractor
    }

    /// Sampling and losses.
    pub fn loss_evaluator(&self) -> &FastRcnnLossComputation {
        &self.loss_evaluator
    }

    /// What makes detections of the predictions.
    pub fn post_processor(&self) -> &PostProcessor {
        &self.post_processor
    }

    /// Class logits `[R, classes]` and box offsets `[R, 4·classes]` of the proposals of all images.
    ///
    /// # Errors
    /// Fewer maps than the pooler has scales.
    pub fn predict(&self, features: &[Tensor], proposals: &[BoxList]) -> Result<(Tensor, Tensor)> {
        Ok(self.run_predictor(&self.feature_extractor.forward(features, proposals, false)?, false))
    }

    fn run_predictor(&self, x: &Tensor, train: bool) -> (Tensor, Tensor) {
        let (class_logits, box_regression) = self.predictor.forward(x, train);
        (full_precision(&class_logits), full_precision(&box_regression))
    }

    /// Samples the proposals and computes the losses.
    ///
    /// # Errors
    /// Ground truth without the field `labels`.
    pub fn losses(&self, features: &[Tensor], proposals: &[BoxList], targets: &[BoxList]) -> Result<BoxHeadTraining> {
        let proposals = self.loss_evaluator.subsample(proposals, targets)?;
        let features = self.feature_extractor.forward(features, &proposals, true)?;
        let (class_logits, box_regression) = self.run_predictor(&features, true);
        let (loss_classifier, loss_box_reg) = self.loss_evaluator.losses(&class_logits, &box_regression, &proposals)?;
        let losses = vec![("loss_classifier".into(), loss_classifier), ("loss_box_reg".into(), loss_box_reg)];
        Ok(BoxHeadTraining { features, proposals, losses })
    }

    /// The detections of each image, with the fields `scores` and `labels`.
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn detect(&self, features: &[Tensor], proposals: &[BoxList]) -> Result<Vec<BoxList>> {
        let (class_logits, box_regression) = self.predict(features, proposals)?;
        self.post_processor.detections(&class_logits, &box_regression, proposals)
    }
}

/// The box head of `MODEL.ROI_BOX_HEAD`.
///
/// # Errors
/// Unknown names of extractor or predictor, or keys that contradict each other or the maps.
pub fn build_roi_box_head(
    cfg: &Config,
    path: &ParamPath,
    maps: &FeatureMaps,
    registries: &ModelRegistries,
) -> Result<RoiBoxHead> {
    let head = &cfg.model.roi_box_head;
    ensure!(
        head.num_classes >= 2,
        "MODEL.ROI_BOX_HEAD.NUM_CLASSES counts the background and must be at least 2, not {}",
        head.num_classes
    );
    let extractor = registries.box_feature_extractors.get(&head.feature_extractor)?;
    let feature_extractor = extractor(cfg, &path.sub("feature_extractor"), maps)?;
    let predictor = registries.box_predictors.get(&head.predictor)?;
    Ok(RoiBoxHead {
        predictor: predictor(cfg, &path.sub("predictor"), feature_extractor.out_channels())?,
        feature_extractor,
        post_processor: make_roi_box_post_processor(cfg)?,
        loss_evaluator: make_roi_box_loss_evaluator(cfg)?,
    })
}
