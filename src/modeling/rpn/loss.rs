//! The losses of the region proposal network.

use anyhow::{Context, Result};
use tch::{Kind, Reduction, Tensor};

use crate::config::Config;
use crate::layers::{smooth_l1_loss, Predictions};
use crate::modeling::balanced_positive_negative_sampler::{BalancedPositiveNegativeSampler, Sampled};
use crate::modeling::batch::{all_boxes, Rows};
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::matcher::{MatchedTargets, Matcher};
use crate::modeling::utils::{cat, zero_loss};
use crate::structures::{BoxList, ImageList};

use super::anchor_generator::AnchorGenerator;
use super::utils::{encode_positives, AnchorPredictions};

/// Matches anchors, samples them and computes the two losses.
#[derive(Debug)]
pub struct RpnLossComputation {
    matcher: Matcher,
    sampler: BalancedPositiveNegativeSampler,
    box_coder: BoxCoder,
}

impl RpnLossComputation {
    /// The losses by these rules; see [`make_rpn_loss_evaluator`].
    pub fn new(matcher: Matcher, sampler: BalancedPositiveNegativeSampler, box_coder: BoxCoder) -> Self {
        Self { matcher, sampler, box_coder }
    }

    /// The targets of the anchors `[K, 4]` (all levels of an image, concatenated), per image. Anchors that cross the
    /// border and those between the thresholds are ignored.
    pub fn prepare_targets(
        &self,
        images: &ImageList,
        generator: &AnchorGenerator,
        anchors: &Tensor,
        targets: &[BoxList],
    ) -> Vec<MatchedTargets> {
        let gt = all_boxes(targets).to_device(anchors.device());
        let shape = [targets.len() as i64, anchors.size()[0]];
        let objects = Rows::of_boxes(targets);
        let matched_idxs = self.matcher.match_batch(&gt, &objects, Predictions::Shared(anchors)).view(shape);
        let visible = generator.visibility(anchors, &images.image_sizes);
        let ignored = visible.logical_not().logical_or(&matched_idxs.eq(Matcher::BETWEEN_THRESHOLDS));
        let labels = matched_idxs.ge(0).to_kind(Kind::Int64).masked_fill(&ignored, -1);
        let per_image = labels.unbind(0).into_iter().zip(matched_idxs.unbind(0));
        per_image.map(|(labels, matched_idxs)| MatchedTargets { labels, matched_idxs }).collect()
    }

    /// Draws the anchors that take part in the losses (see [`BalancedPositiveNegativeSampler::sample`]).
    pub fn sample(&self, targets: &[MatchedTargets]) -> Sampled {
        self.sampler.sample(targets.iter().map(|target| &target.labels))
    }

    /// `(loss_objectness, loss_rpn_box_reg)`. The box loss is divided by *all* samples, as in the original. Without
    /// samples or positives a loss is a zero with gradients.
    ///
    /// # Shapes
    /// `anchors`: one `[H·W·A, 4]` per level.
    pub fn losses(
        &self,
        images: &ImageList,
        generator: &AnchorGenerator,
        anchors: &[Tensor],
        predictions: &AnchorPredictions,
        targets: &[BoxList],
    ) -> (Tensor, Tensor) {
        let anchors = cat(anchors, 0);
        let prepared = self.prepare_targets(images, generator, &anchors, targets);
        let sampled = self.sample(&prepared);
        let objectness = predictions.objectness.flatten(0, 1);
        let box_regression = predictions.box_regression.flatten(0, 1);

        let Sampled { positive, negative, .. } = &sampled;
        let num_samples = positive.size()[0] + negative.size()[0];
        if num_samples == 0 {
            return (zero_loss(&objectness), zero_loss(&box_regression));
        }

        let positives = (positive, &sampled.positive_rows);
        let regression_targets = encode_positives(&self.box_coder, &anchors, &prepared, positives, targets);
        let box_loss = smooth_l1_loss(&box_regression.index_select(0, positive), &regression_targets, 1.0 / 9.0, false)
            / num_samples as f64;

        let labels = Tensor::cat(&[positive.ones_like(), negative.zeros_like()], 0).to_kind(objectness.kind());
        let objectness_loss = objectness
            .index_select(0, &Tensor::cat(&[positive, negative], 0))
            .binary_cross_entropy_with_logits::<Tensor>(&labels, None, None, Reduction::Mean);
        (objectness_loss, box_loss)
    }
}

/// The loss computation of `MODEL.RPN`.
///
/// # Errors
/// Thresholds in the wrong order.
pub fn make_rpn_loss_evaluator(cfg: &Config, box_coder: &BoxCoder) -> Result<RpnLossComputation> {
    let rpn = &cfg.model.rpn;
    let matcher = Matcher::new(rpn.fg_iou_threshold, rpn.bg_iou_threshold, true).context("MODEL.RPN")?;
    let sampler = BalancedPositiveNegativeSampler::new(rpn.batch_size_per_image, rpn.positive_fraction);
    Ok(RpnLossComputation::new(matcher, sampler, box_coder.clone()))
}
