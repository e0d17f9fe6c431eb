//! The region proposal network as one module, and its default head.

use anyhow::{ensure, Result};
use tch::Tensor;

use crate::config::Config;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, Init, ParamPath};
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::detector::Losses;
use crate::modeling::registry::{FeatureMaps, ModelRegistries, RpnHead};
use crate::structures::{BoxList, ImageList};

use super::anchor_generator::{make_anchor_generator, AnchorGenerator};
use super::inference::{add_gt_proposals, make_rpn_postprocessor, RpnPostProcessor};
use super::loss::{make_rpn_loss_evaluator, RpnLossComputation};
use super::retinanet::{build_retinanet, RetinaNetModule};
use super::utils::AnchorPredictions;

/// A 3×3 convolution and one 1×1 convolution each for objectness and box offsets, shared by all levels
/// (`SingleConvRPNHead`).
struct SingleConvRpnHead {
    conv: ConvNorm,
    cls_logits: ConvNorm,
    bbox_pred: ConvNorm,
}

impl SingleConvRpnHead {
    fn new(path: &ParamPath, in_channels: i64, num_anchors: i64) -> Self {
        let conv = |name: &str, out_channels: i64, kernel_size: i64| {
            let config = ConvConfig {
                padding: kernel_size / 2,
                weight_init: Init::Normal { mean: 0.0, std: 0.01 },
                bias_init: Some(Init::Const(0.0)),
                ..ConvConfig::default()
            };
            let conv = Conv2d::new(&path.sub(name), in_channels, out_channels, kernel_size, config);
            ConvNorm::new(conv, None, kernel_size == 3)
        };
        Self {
            conv: conv("conv", in_channels, 3),
            cls_logits: conv("cls_logits", num_anchors, 1),
            bbox_pred: conv("bbox_pred", num_anchors * 4, 1),
        }
    }
}

impl RpnHead for SingleConvRpnHead {
    fn forward(&self, features: &[Tensor], train: bool) -> (Vec<Tensor>, Vec<Tensor>) {
        features
            .iter()
            .map(|feature| {
                let hidden = self.conv.forward(feature, train);
                (self.cls_logits.forward(&hidden, train), self.bbox_pred.forward(&hidden, train))
            })
            .unzip()
    }
}

fn build_single_conv(_cfg: &Config, path: &ParamPath, in_channels: i64, num_anchors: i64) -> Result<Box<dyn RpnHead>> {
    Ok(Box::new(SingleConvRpnHead::new(path, in_channels, num_anchors)))
}

/// Adds the built-in RPN heads.
pub fn register(registries: &mut ModelRegistries) {
    registries.rpn_heads.built_in([("SingleConvRPNHead", build_single_conv)]);
}

/// Head, anchors, selection of proposals and losses of the region proposal network, with and without a pyramid.
pub struct RpnModule {
    anchor_generator: AnchorGenerator,
    head: Box<dyn RpnHead>,
    box_selector_train: RpnPostProcessor,
    box_selector_test: RpnPostProcessor,
    loss_evaluator: RpnLossComputation,
    rpn_only: bool,
}

impl RpnModule {
    /// # Errors
    /// An unknown `MODEL.RPN.RPN_HEAD`, or keys of `MODEL.RPN` that contradict each other or the maps.
    pub fn new(cfg: &Config, path: &ParamPath, maps: &FeatureMaps, registries: &ModelRegistries) -> Result<Self> {
        let anchor_generator = make_anchor_generator(cfg, &path.sub("anchor_generator"), maps)?;
        let num_anchors = anchor_generator.num_anchors_per_location();
        ensure!(
            num_anchors.iter().all(|n| *n == num_anchors[0]),
            "MODEL.RPN: every feature map must have the same number of anchors, not {num_anchors:?}"
        );
        let build = registries.rpn_heads.get(&cfg.model.rpn.rpn_head)?;
        let head = build(cfg, &path.sub("head"), maps.channels, num_anchors[0])?;
        let box_coder = BoxCoder::new([1.0; 4]);
        Ok(Self {
            anchor_generator,
            head,
            box_selector_train: make_rpn_postprocessor(cfg, &box_coder, true),
            box_selector_test: make_rpn_postprocessor(cfg, &box_coder, false),
            loss_evaluator: make_rpn_loss_evaluator(cfg, &box_coder)?,
            rpn_only: cfg.model.rpn_only,
        })
    }

    /// The anchors.
    pub fn anchor_generator(&self) -> &AnchorGenerator {
        &self.anchor_generator
    }

    /// The convolutions.
    pub fn head(&self) -> &dyn RpnHead {
        self.head.as_ref()
    }

    /// Sampling and losses.
    pub fn loss_evaluator(&self) -> &RpnLossComputation {
        &self.loss_evaluator
    }

    /// Proposals for training the heads (ground truth included; none for an RPN-only model) and the losses.
    ///
    /// # Errors
    /// Another number of maps than there are levels of anchors.
    pub fn losses(
        &self,
        images: &ImageList,
        features: &[Tensor],
        targets: &[BoxList],
    ) -> Result<(Vec<BoxList>, Losses)> {
        let predictions = AnchorPredictions::new(self.head.forward(features, true));
        let anchors = self.anchor_generator.grid_anchors(features)?;
        let proposals = if self.rpn_only {
            Vec::new()
        } else {
            let selected = self.box_selector_train.select(images, &anchors, &predictions)?;
            add_gt_proposals(&selected, targets)?
        };
        let (loss_objectness, loss_rpn_box_reg) =
            self.loss_evaluator.losses(images, &self.anchor_generator, &anchors, &predictions, targets);
        let losses = vec![("loss_objectness".into(), loss_objectness), ("loss_rpn_box_reg".into(), loss_rpn_box_reg)];
        Ok((proposals, losses))
    }

    /// Proposals with the field `objectness`; those of an RPN-only model are sorted by it.
    ///
    /// # Errors
    /// Another number of maps than there are levels of anchors.
    pub fn detect(&self, images: &ImageList, features: &[Tensor]) -> Result<Vec<BoxList>> {
        let predictions = AnchorPredictions::new(self.head.forward(features, false));
        let anchors = self.anchor_generator.grid_anchors(features)?;
        let boxes = self.box_selector_test.select(images, &anchors, &predictions)?;
        if !self.rpn_only {
            return Ok(boxes);
        }
        boxes.iter().map(|b| b.select(&b.tensor_field("objectness")?.sort_stable(true, 0, true).1)).collect()
    }
}

/// What stands between backbone and heads: a region proposal network, or RetinaNet, whose boxes are the detections.
pub enum ProposalNetwork {
    /// Class-agnostic proposals for the heads.
    Rpn(Box<RpnModule>),
    /// Detections without further heads.
    RetinaNet(Box<RetinaNetModule>),
}

impl ProposalNetwork {
    /// Boxes for the heads and the losses; RetinaNet gives no boxes here.
    ///
    /// # Errors
    /// Another number of maps than there are levels of anchors; for RetinaNet, ground truth without the field
    /// `labels`.
    pub fn losses(
        &self,
        images: &ImageList,
        features: &[Tensor],
        targets: &[BoxList],
    ) -> Result<(Vec<BoxList>, Losses)> {
        match self {
            Self::Rpn(rpn) => rpn.losses(images, features, targets),
            Self::RetinaNet(retinanet) => Ok((Vec::new(), retinanet.losses(features, targets)?)),
        }
    }

    /// Proposals, or RetinaNet's detections.
    ///
    /// # Errors
    /// Another number of maps than there are levels of anchors.
    pub fn detect(&self, images: &ImageList, features: &[Tensor]) -> Result<Vec<BoxList>> {
        match self {
            Self::Rpn(rpn) => rpn.detect(images, features),
            Self::RetinaNet(retinanet) => retinanet.detect(images, features),
        }
    }
}

/// The network that `MODEL.RETINANET_ON` chooses.
///
/// # Errors
/// See [`RpnModule::new`] and [`build_retinanet`].
pub fn build_rpn(
    cfg: &Config,
    path: &ParamPath,
    maps: &FeatureMaps,
    registries: &ModelRegistries,
) -> Result<ProposalNetwork> {
    Ok(if cfg.model.retinanet_on {
        ProposalNetwork::RetinaNet(Box::new(build_retinanet(cfg, path, maps)?))
    } else {
        ProposalNetwork::Rpn(Box::new(RpnModule::new(cfg, path, maps, registries)?))
    })
}
