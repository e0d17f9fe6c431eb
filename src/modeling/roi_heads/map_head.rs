//! What the mask and the keypoint head have in common: maps for each region.

use std::rc::Rc;

use anyhow::{ensure, Result};
use tch::{Kind, Tensor};

use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::poolers::RoiHead;
use crate::modeling::registry::{
    FeatureMaps, Registry, RoiFeatureExtractor, RoiFeatureExtractorBuilder, RoiMapPredictor, RoiMapPredictorBuilder,
};
use crate::structures::{BoxList, Mode};

use super::box_head::box_head::BoxHeadTraining;

/// The box head's extractor, for a head that shares it.
pub struct SharedExtractor {
    pub(super) extractor: Rc<dyn RoiFeatureExtractor>,
    pub(super) path: ParamPath,
}

/// What a head of maps is made of.
pub(super) struct MapHeadParts<'a> {
    /// Whose section names the parts.
    pub(super) head: RoiHead,
    /// `FEATURE_EXTRACTOR`
    pub(super) feature_extractor: &'a str,
    /// `PREDICTOR`
    pub(super) predictor: &'a str,
    /// `RESOLUTION`: the side of the targets.
    pub(super) resolution: i64,
    /// Where the extractor is looked up.
    pub(super) feature_extractors: &'a Registry<RoiFeatureExtractorBuilder>,
    /// Where the predictor is looked up.
    pub(super) predictors: &'a Registry<RoiMapPredictorBuilder>,
}

/// A feature extractor (its own, or the box head's) and a predictor.
pub(super) struct MapHead {
    feature_extractor: Rc<dyn RoiFeatureExtractor>,
    shares_box_feature_extractor: bool,
    predictor: Box<dyn RoiMapPredictor>,
}

impl MapHead {
    /// Parameters lie below `path.feature_extractor` and `path.predictor`; those of a shared extractor are listed
    /// again there, as in the original's `state_dict`.
    ///
    /// # Errors
    /// Unknown names, or keys that contradict each other: maps of another side than the targets', a shared extractor
    /// that gives vectors.
    pub(super) fn new(
        cfg: &Config,
        path: &ParamPath,
        maps: &FeatureMaps,
        parts: MapHeadParts,
        shared: Option<SharedExtractor>,
    ) -> Result<Self> {
        let extractor_path = path.sub("feature_extractor");
        let shares_box_feature_extractor = shared.is_some();
        let feature_extractor = match shared {
            Some(shared) => {
                extractor_path.alias(&shared.path);
                shared.extractor
            }
            None => parts.feature_extractors.get(parts.feature_extractor)?(cfg, &extractor_path, maps)?,
        };
        let predictor = parts.predictors.get(parts.predictor)?;
        let predictor = predictor(cfg, &path.sub("predictor"), feature_extractor.out_channels())?;
        let built = Self { feature_extractor, shares_box_feature_extractor, predictor };
        built.check_side(path, maps, parts.head.section(), parts.resolution)?;
        Ok(built)
    }

    /// Fails where the maps have another side than their targets, or where a shared extractor gives vectors, of which
    /// no maps can be made. Finds out by a run over one region of an empty image.
    fn check_side(&self, path: &ParamPath, maps: &FeatureMaps, section: &str, resolution: i64) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let options = (Kind::Float, path.device());
        let features: Vec<Tensor> =
            maps.strides.iter().map(|_| Tensor::zeros([1, maps.channels, 2, 2], options)).collect();
        let region = BoxList::new(Tensor::zeros([1, 4], options), (32, 32), Mode::Xyxy)?;
        let x = self.feature_extractor.forward(&features, &[region], false)?;
        ensure!(
            x.dim() == 4,
            "{section}.SHARE_BOX_FEATURE_EXTRACTOR needs a box feature extractor that gives maps, but \
             MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR gives vectors: set it to False"
        );
        let side = self.predictor.forward(&x, false).size()[2];
        ensure!(
            side == resolution,
            "{section}.RESOLUTION is {resolution}, but the head's maps are {side} wide: set it to {side}, or change \
             POOLER_RESOLUTION, the feature extractor, or MODEL.RESNETS.RES5_DILATION"
        );
        Ok(())
    }

    /// The maps of `samples`, which are the rows `rows` of the box head's samples. A shared extractor is not run again:
    /// the box head's features are reused.
    ///
    /// # Shapes
    /// `[R, classes or keypoints, S, S]` for the samples of all images.
    ///
    /// # Errors
    /// The samples do not fit the feature maps.
    pub(super) fn train(
        &self,
        features: &[Tensor],
        from_box_head: &BoxHeadTraining,
        samples: &[BoxList],
        rows: &Tensor,
    ) -> Result<Tensor> {
        let x = if self.shares_box_feature_extractor {
            from_box_head.features.index_select(0, rows)
        } else {
            self.feature_extractor.forward(features, samples, true)?
        };
        Ok(self.predictor.forward(&x, true))
    }

    /// The maps of the boxes of all images.
    ///
    /// # Shapes
    /// `[R, classes or keypoints, S, S]`.
    ///
    /// # Errors
    /// The boxes do not fit the feature maps.
    pub(super) fn predict(&self, features: &[Tensor], boxes: &[BoxList]) -> Result<Tensor> {
        Ok(self.predictor.forward(&self.feature_extractor.forward(features, boxes, false)?, false))
    }
}
