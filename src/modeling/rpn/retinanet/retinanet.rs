//! RetinaNet as one module.

use anyhow::{ensure, Result};
use tch::Tensor;

use crate::config::Config;
use crate::layers::{full_precision, Conv2d, ConvConfig, ConvNorm, Init, ParamPath};
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::detector::Losses;
use crate::modeling::registry::FeatureMaps;
use crate::modeling::rpn::anchor_generator::{make_anchor_generator_retinanet, AnchorGenerator};
use crate::structures::{BoxList, ImageList};

use super::inference::{make_retinanet_postprocessor, RetinaNetPostProcessor};
use super::loss::{make_retinanet_loss_evaluator, RetinaNetLossComputation};

/// Two towers of 3×3 convolutions, for classes and for box offsets, shared by all levels.
pub struct RetinaNetHead {
    cls_tower: Vec<ConvNorm>,
    bbox_tower: Vec<ConvNorm>,
    cls_logits: ConvNorm,
    bbox_pred: ConvNorm,
}

impl RetinaNetHead {
    /// # Errors
    /// `PRIOR_PROB` that is no probability.
    pub fn new(cfg: &Config, path: &ParamPath, in_channels: i64) -> Result<Self> {
        let retinanet = &cfg.model.retinanet;
        let prior = retinanet.prior_prob;
        ensure!(prior > 0.0 && prior < 1.0, "MODEL.RETINANET.PRIOR_PROB must lie between 0 and 1, not {prior}");
        let num_anchors = retinanet.aspect_ratios.len() as i64 * retinanet.scales_per_octave;
        let conv = |path: ParamPath, out_channels: i64, bias: f64, relu: bool| {
            let config = ConvConfig {
                padding: 1,
                weight_init: Init::Normal { mean: 0.0, std: 0.01 },
                bias_init: Some(Init::Const(bias)),
                ..ConvConfig::default()
            };
            ConvNorm::new(Conv2d::new(&path, in_channels, out_channels, 3, config), None, relu)
        };
        // Every other module of the original's sequence is a ReLU.
        let tower = |name: &str| -> Vec<ConvNorm> {
            let path = path.sub(name);
            (0..retinanet.num_convs).map(|i| conv(path.sub(2 * i), in_channels, 0.0, true)).collect()
        };
        Ok(Self {
            cls_tower: tower("cls_tower"),
            bbox_tower: tower("bbox_tower"),
            // So that the many background anchors do not dominate the first steps (section 4.1 of the paper).
            cls_logits: conv(
                path.sub("cls_logits"),
                num_anchors * (retinanet.num_classes - 1),
                -((1.0 - prior) / prior).ln(),
                false,
            ),
            bbox_pred: conv(path.sub("bbox_pred"), num_anchors * 4, 0.0, false),
        })
    }

    /// # Shapes
    /// One `[N, C, H, W]` per level → per level `[N, A·(classes - 1), H, W]` and `[N, A·4, H, W]`.
    pub fn forward(&self, features: &[Tensor], train: bool) -> (Vec<Tensor>, Vec<Tensor>) {
        let run = |tower: &[ConvNorm], feature: &Tensor| {
            tower.iter().fold(feature.shallow_clone(), |x, conv| conv.forward(&x, train))
        };
        features
            .iter()
            .map(|feature| {
                let logits = self.cls_logits.forward(&run(&self.cls_tower, feature), train);
                (logits, self.bbox_pred.forward(&run(&self.bbox_tower, feature), train))
            })
            .unzip()
    }
}

/// Head, anchors, selection of detections and losses of RetinaNet.
pub struct RetinaNetModule {
    anchor_generator: AnchorGenerator,
    head: RetinaNetHead,
    box_selector_test: RetinaNetPostProcessor,
    loss_evaluator: RetinaNetLossComputation,
}

impl RetinaNetModule {
    /// The convolutions.
    pub fn head(&self) -> &RetinaNetHead {
        &self.head
    }

    /// `loss_retina_cls` and `loss_retina_reg`.
    ///
    /// # Errors
    /// Ground truth without the field `labels`.
    pub fn losses(&self, features: &[Tensor], targets: &[BoxList]) -> Result<Losses> {
        let (box_cls, box_regression) = in_full_precision(self.head.forward(features, true));
        let anchors = self.anchor_generator.grid_anchors(features)?;
        let (loss_cls, loss_reg) = self.loss_evaluator.losses(&anchors, &box_cls, &box_regression, targets)?;
        Ok(vec![("loss_retina_cls".into(), loss_cls), ("loss_retina_reg".into(), loss_reg)])
    }

    /// Detections with the fields `labels` and `scores`.
    ///
    /// # Errors
    /// Another number of maps than there are levels of anchors.
    pub fn detect(&self, images: &ImageList, features: &[Tensor]) -> Result<Vec<BoxList>> {
        let (box_cls, box_regression) = in_full_precision(self.head.forward(features, false));
        let anchors = self.anchor_generator.grid_anchors(features)?;
        self.box_selector_test.select(images, &anchors, &box_cls, &box_regression)
    }
}

/// RetinaNet as `MODEL.RETINANET` describes it.
///
/// # Errors
/// Keys that contradict each other or the maps.
pub fn build_retinanet(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<RetinaNetModule> {
    let num_classes = cfg.model.retinanet.num_classes;
    ensure!(
        num_classes >= 2,
        "MODEL.RETINANET.NUM_CLASSES counts the background and must be at least 2, not {num_classes}"
    );
    let box_coder = BoxCoder::new([10.0, 10.0, 5.0, 5.0]);
    Ok(RetinaNetModule {
        anchor_generator: make_anchor_generator_retinanet(cfg, &path.sub("anchor_generator"), maps)?,
        head: RetinaNetHead::new(cfg, &path.sub("head"), maps.channels)?,
        box_selector_test: make_retinanet_postprocessor(cfg, &box_coder),
        loss_evaluator: make_retinanet_loss_evaluator(cfg, &box_coder)?,
    })
}

/// Scores and box offsets of a head, for what must not be done in 16 bits.
fn in_full_precision((scores, offsets): (Vec<Tensor>, Vec<Tensor>)) -> (Vec<Tensor>, Vec<Tensor>) {
    let converted = |maps: Vec<Tensor>| maps.iter().map(full_precision).collect();
    (converted(scores), converted(offsets))
}
