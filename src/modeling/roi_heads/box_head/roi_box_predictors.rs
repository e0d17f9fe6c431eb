//! From the features of regions to class scores and box offsets.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::config::Config;
use crate::layers::{Init, Linear, LinearConfig, ParamPath};
use crate::modeling::registry::{ModelRegistries, RoiBoxPredictor};

/// One linear layer for the classes, one for the boxes: `FastRCNNPredictor` averages maps first, `FPNPredictor` takes
/// vectors.
struct LinearPredictor {
    cls_score: Linear,
    bbox_pred: Linear,
}

impl LinearPredictor {
    fn new(cfg: &Config, path: &ParamPath, in_channels: i64) -> Self {
        let num_classes = cfg.model.roi_box_head.num_classes;
        // Class-agnostic regression has two "classes", background and object, of which only the second is used.
        let box_classes = if cfg.model.cls_agnostic_bbox_reg { 2 } else { num_classes };
        let linear = |name: &str, out_features: i64, std: f64| {
            let config = LinearConfig {
                bias: true,
                weight_init: Init::Normal { mean: 0.0, std },
                bias_init: Some(Init::Const(0.0)),
            };
            Linear::new(&path.sub(name), in_channels, out_features, config)
        };
        Self {
            cls_score: linear("cls_score", num_classes, 0.01),
            bbox_pred: linear("bbox_pred", box_classes * 4, 0.001),
        }
    }
}

impl RoiBoxPredictor for LinearPredictor {
    /// # Shapes
    /// `x` `[R, C]`, or `[R, C, H, W]`, which is averaged → logits `[R, classes]`, offsets `[R, 4·classes]`.
    fn forward(&self, x: &Tensor, _train: bool) -> (Tensor, Tensor) {
        let x = if x.dim() == 4 { x.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>) } else { x.shallow_clone() };
        (self.cls_score.forward(&x), self.bbox_pred.forward(&x))
    }
}

fn build_linear(cfg: &Config, path: &ParamPath, in_channels: i64) -> Result<Box<dyn RoiBoxPredictor>> {
    Ok(Box::new(LinearPredictor::new(cfg, path, in_channels)))
}

/// Adds the built-in box predictors.
pub fn register(registries: &mut ModelRegistries) {
    registries.box_predictors.built_in([("FastRCNNPredictor", build_linear), ("FPNPredictor", build_linear)]);
}
