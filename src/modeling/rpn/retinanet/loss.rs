//! The losses of RetinaNet.

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use crate::config::Config;
use crate::layers::{sigmoid_focal_loss, smooth_l1_loss, Predictions};
use crate::modeling::batch::{indices_of_batch, Rows};
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::matcher::{MatchedTargets, Matcher};
use crate::modeling::rpn::utils::{concat_box_prediction_layers, encode_positives};
use crate::modeling::utils::cat;
use crate::structures::BoxList;

/// Matches anchors and computes the two losses over all of them.
#[derive(Clone, Debug)]
pub struct RetinaNetLossComputation {
    matcher: Matcher,
    box_coder: BoxCoder,
    gamma: f64,
    alpha: f64,
    bbox_reg_beta: f64,
    /// What the box loss is divided by, beside the number of positives (`BBOX_REG_WEIGHT`).
    regress_norm: f64,
}

impl RetinaNetLossComputation {
    /// The targets of the anchors `[K, 4]`, per image: labels are classes here. Anchors between the thresholds are
    /// ignored; those that cross the border are not.
    ///
    /// # Errors
    /// Ground truth without the field `labels`.
    pub fn prepare_targets(&self, anchors: &Tensor, targets: &[BoxList]) -> Result<Vec<MatchedTargets>> {
        self.matcher.match_classes(targets, Predictions::Shared(anchors))
    }

    /// `(loss_retina_cls, loss_retina_reg)`. The class loss is divided by positives + images.
    ///
    /// # Shapes
    /// `anchors`: one `[H·W·A, 4]` per level; `box_cls` and `box_regression` as the head gives them.
    ///
    /// # Errors
    /// Ground truth without the field `labels`.
    pub fn losses(
        &self,
        anchors: &[Tensor],
        box_cls: &[Tensor],
        box_regression: &[Tensor],
        targets: &[BoxList],
    ) -> Result<(Tensor, Tensor)> {
        let anchors = cat(anchors, 0);
        let prepared = self.prepare_targets(&anchors, targets)?;
        let (box_cls, box_regression) = concat_box_prediction_layers(box_cls, box_regression);

        let labels = MatchedTargets::all(&prepared, |prepared| &prepared.labels);
        let of_images = Rows::new(prepared.iter().map(|_| anchors.size()[0]));
        let (positive, rows) = indices_of_batch(&of_images.split(&labels.gt(0)));
        let encoded = encode_positives(&self.box_coder, &anchors, &prepared, (&positive, &rows), targets);
        let num_positive = positive.size()[0] as f64;
        let loss_reg = smooth_l1_loss(&box_regression.index_select(0, &positive), &encoded, self.bbox_reg_beta, false)
            / (num_positive * self.regress_norm).max(1.0);

        let loss_cls = sigmoid_focal_loss(&box_cls, &labels.to_kind(Kind::Int), self.gamma, self.alpha)
            .sum(Kind::Float)
            / (num_positive + prepared.len() as f64);
        Ok((loss_cls, loss_reg))
    }
}

/// The loss computation of `MODEL.RETINANET`.
///
/// # Errors
/// Thresholds in the wrong order.
pub fn make_retinanet_loss_evaluator(cfg: &Config, box_coder: &BoxCoder) -> Result<RetinaNetLossComputation> {
    let retinanet = &cfg.model.retinanet;
    let matcher = Matcher::new(retinanet.fg_iou_threshold, retinanet.bg_iou_threshold, true);
    Ok(RetinaNetLossComputation {
        matcher: matcher.context("MODEL.RETINANET")?,
        box_coder: box_coder.clone(),
        gamma: retinanet.loss_gamma,
        alpha: retinanet.loss_alpha,
        bbox_reg_beta: retinanet.bbox_reg_beta,
        regress_norm: retinanet.bbox_reg_weight,
    })
}
