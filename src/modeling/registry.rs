//! What a model can be made of, by the names that configurations use. The built-in parts are ordinary entries, and a
//! user's crate can add its own:
//!
//! ```no_run
//! # use anyhow::Result;
//! # use maskrcnn_benchmark::{config::Config, layers::ParamPath};
//! use maskrcnn_benchmark::modeling::registry::{Backbone, ModelRegistries};
//!
//! fn build_my_body(cfg: &Config, path: &ParamPath) -> Result<Box<dyn Backbone>> {
//! #   let _ = (cfg, path);
//!     // …
//! #   anyhow::bail!("an example")
//! }
//!
//! # fn main() -> Result<()> {
//! let mut registries = ModelRegistries::default();
//! registries.backbones.register("MyBody", build_my_body)?; // MODEL.BACKBONE.CONV_BODY: "MyBody"
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::rc::Rc;

use anyhow::Result;
use tch::Tensor;

use super::{backbone, roi_heads, rpn};
use crate::config::registry::builders;
pub use crate::config::registry::Registry;
use crate::config::Config;
use crate::layers::ParamPath;
use crate::structures::BoxList;

/// The feature maps of a backbone, as the parts after it must know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureMaps {
    /// The number of channels of every map.
    pub channels: i64,
    /// How many times smaller than the image each map is, finest first.
    pub strides: Vec<i64>,
}

impl fmt::Display for FeatureMaps {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.strides.as_slice() {
            [only] => write!(f, "one feature map, of stride {only}"),
            strides => {
                let strides: Vec<String> = strides.iter().map(i64::to_string).collect();
                write!(f, "{} feature maps, of strides {}", strides.len(), strides.join(", "))
            }
        }
    }
}

/// Makes feature maps from images.
pub trait Backbone {
    /// `train` only matters to layers that behave differently in training, such as batch norm.
    ///
    /// # Shapes
    /// `[N, 3, H, W]` to one `[N, C, H / s, W / s]` per map, finest first.
    fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor>;

    /// What the maps are like. Anchors and poolers are compared with it when a model is built.
    fn feature_maps(&self) -> &FeatureMaps;
}

/// Scores anchors and predicts how they should move.
pub trait RpnHead {
    /// # Shapes
    /// Per level `[N, C, H, W]` to objectness logits `[N, A, H, W]` and box codes `[N, 4A, H, W]`.
    fn forward(&self, features: &[Tensor], train: bool) -> (Vec<Tensor>, Vec<Tensor>);
}

/// Turns regions of interest into features.
pub trait RoiFeatureExtractor {
    /// # Shapes
    /// Levels `[N, C, H, W]` and `N` box lists with `R` boxes in all to `[R, out_channels, ..]`.
    ///
    /// # Errors
    /// The box lists do not fit the feature maps.
    fn forward(&self, features: &[Tensor], proposals: &[BoxList], train: bool) -> Result<Tensor>;

    /// The number of channels (or features) of each region.
    fn out_channels(&self) -> i64;
}

/// Classifies regions and refines their boxes.
pub trait RoiBoxPredictor {
    /// # Shapes
    /// `[R, C, ..]` to class logits `[R, classes]` and box codes `[R, 4 * classes]`.
    fn forward(&self, x: &Tensor, train: bool) -> (Tensor, Tensor);
}

/// Predicts maps per region: mask logits per class, or keypoint heat maps.
pub trait RoiMapPredictor {
    /// # Shapes
    /// `[R, C, M, M]` to `[R, classes or keypoints, S, S]`.
    fn forward(&self, x: &Tensor, train: bool) -> Tensor;
}

builders! {
    /// Makes the backbone whose parameters lie below the path.
    BackboneBuilder(&Config, &ParamPath) -> Box<dyn Backbone>;
    /// Takes the number of channels of the features and the number of anchors per position.
    RpnHeadBuilder(&Config, &ParamPath, i64, i64) -> Box<dyn RpnHead>;
    /// Takes the maps that the features of regions are pooled from; the result may be shared between heads.
    RoiFeatureExtractorBuilder(&Config, &ParamPath, &FeatureMaps) -> Rc<dyn RoiFeatureExtractor>;
    /// Takes the number of channels that the feature extractor gives.
    RoiBoxPredictorBuilder(&Config, &ParamPath, i64) -> Box<dyn RoiBoxPredictor>;
    /// Takes the number of channels that the feature extractor gives.
    RoiMapPredictorBuilder(&Config, &ParamPath, i64) -> Box<dyn RoiMapPredictor>;
}

/// Everything that a model can be made of.
#[derive(Clone, Debug)]
pub struct ModelRegistries {
    /// `MODEL.BACKBONE.CONV_BODY`
    pub backbones: Registry<BackboneBuilder>,
    /// `MODEL.RPN.RPN_HEAD`
    pub rpn_heads: Registry<RpnHeadBuilder>,
    /// `MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR`
    pub box_feature_extractors: Registry<RoiFeatureExtractorBuilder>,
    /// `MODEL.ROI_BOX_HEAD.PREDICTOR`
    pub box_predictors: Registry<RoiBoxPredictorBuilder>,
    /// `MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR`
    pub mask_feature_extractors: Registry<RoiFeatureExtractorBuilder>,
    /// `MODEL.ROI_MASK_HEAD.PREDICTOR`
    pub mask_predictors: Registry<RoiMapPredictorBuilder>,
    /// `MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR`
    pub keypoint_feature_extractors: Registry<RoiFeatureExtractorBuilder>,
    /// `MODEL.ROI_KEYPOINT_HEAD.PREDICTOR`
    pub keypoint_predictors: Registry<RoiMapPredictorBuilder>,
}

impl ModelRegistries {
    /// Registries without any entry.
    pub fn empty() -> Self {
        Self {
            backbones: Registry::new("MODEL.BACKBONE.CONV_BODY"),
            rpn_heads: Registry::new("MODEL.RPN.RPN_HEAD"),
            box_feature_extractors: Registry::new("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR"),
            box_predictors: Registry::new("MODEL.ROI_BOX_HEAD.PREDICTOR"),
            mask_feature_extractors: Registry::new("MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR"),
            mask_predictors: Registry::new("MODEL.ROI_MASK_HEAD.PREDICTOR"),
            keypoint_feature_extractors: Registry::new("MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR"),
            keypoint_predictors: Registry::new("MODEL.ROI_KEYPOINT_HEAD.PREDICTOR"),
        }
    }
}

impl Default for ModelRegistries {
    /// Every part of this crate.
    fn default() -> Self {
        let mut registries = Self::empty();
        backbone::register(&mut registries);
        rpn::register(&mut registries);
        roi_heads::register(&mut registries);
        registries
    }
}
