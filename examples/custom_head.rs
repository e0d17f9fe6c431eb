//! A box predictor of one's own, trained through `train_net`: classes are told apart by the angle between a region's
//! features and one direction per class (a cosine classifier).
//!
//! ```text
//! cargo run --release --example custom_head -- \
//!     --config-file configs/quickstart/mask_rcnn_R2_50_FPN_gn_shapes.yaml \
//!     OUTPUT_DIR output/custom_head MODEL.ROI_BOX_HEAD.PREDICTOR CosinePredictor
//! ```

use anyhow::Result;
use maskrcnn_benchmark::cli::{exit_code, train_net, Registries};
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::layers::parameters::{Init, ParamPath};
use maskrcnn_benchmark::layers::{Linear, LinearConfig};
use maskrcnn_benchmark::modeling::registry::RoiBoxPredictor;
use tch::Tensor;

/// Cosines lie between -1 and 1; logits must reach further for confident scores.
const SCALE: f64 = 10.0;

struct CosinePredictor {
    directions: Tensor,
    bbox_pred: Linear,
}

impl CosinePredictor {
    fn build(cfg: &Config, path: &ParamPath, in_channels: i64) -> Result<Box<dyn RoiBoxPredictor>> {
        let classes = cfg.model.roi_box_head.num_classes;
        let normal = |std| Init::Normal { mean: 0.0, std };
        let directions = path.sub("cls_score").parameter("weight", &[classes, in_channels], normal(0.01));
        let config =
            LinearConfig { weight_init: normal(0.001), bias_init: Some(Init::Const(0.0)), ..Default::default() };
        let bbox_pred = Linear::new(&path.sub("bbox_pred"), in_channels, 4 * classes, config);
        Ok(Box::new(Self { directions, bbox_pred }))
    }
}

impl RoiBoxPredictor for CosinePredictor {
    fn forward(&self, x: &Tensor, _train: bool) -> (Tensor, Tensor) {
        let unit = |t: &Tensor| t / (t.norm_scalaropt_dim(2, [-1i64], true) + 1e-6);
        let cosines = unit(x).matmul(&unit(&self.directions).tr());
        (cosines * SCALE, self.bbox_pred.forward(x))
    }
}

/// The built-in names and `CosinePredictor`.
pub fn registries() -> Result<Registries> {
    let mut registries = Registries::default();
    registries.models.box_predictors.register("CosinePredictor", CosinePredictor::build)?;
    Ok(registries)
}

#[allow(dead_code)] // the tests include this file as a module
fn main() -> std::process::ExitCode {
    exit_code(|| train_net(std::env::args_os(), &registries()?))
}
