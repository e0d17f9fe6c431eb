//! Sampling of proposals and the losses of the box head (Fast R-CNN).

use anyhow::{Context, Result};
use tch::{Kind, Reduction, Tensor};

use crate::config::Config;
use crate::layers::{smooth_l1_loss, Predictions};
use crate::modeling::balanced_positive_negative_sampler::BalancedPositiveNegativeSampler;
use crate::modeling::batch::{all_boxes, all_of_field, select_rows_of_all, Rows};
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::matcher::{rows_of_truth, MatchedTargets, Matcher};
use crate::modeling::utils::zero_loss;
use crate::structures::BoxList;

/// Matches and samples proposals, and computes the two losses.
#[derive(Debug)]
pub struct FastRcnnLossComputation {
    matcher: Matcher,
    sampler: BalancedPositiveNegativeSampler,
    box_coder: BoxCoder,
    cls_agnostic_bbox_reg: bool,
}

impl FastRcnnLossComputation {
    /// The targets of the proposals, per image.
    ///
    /// # Errors
    /// Ground truth without the field `labels`.
    pub fn prepare_targets(&self, proposals: &[BoxList], targets: &[BoxList]) -> Result<Vec<MatchedTargets>> {
        match_proposals(&self.matcher, proposals, targets)
    }

    /// The sampler, for looking at what it draws.
    pub fn sampler(&self) -> &BalancedPositiveNegativeSampler {
        &self.sampler
    }

    /// Samples positives and negatives of each image (ascending) and gives them the fields `labels`,
    /// `regression_targets` and `matched_idxs`.
    ///
    /// # Errors
    /// Ground truth without the field `labels`.
    pub fn subsample(&self, proposals: &[BoxList], targets: &[BoxList]) -> Result<Vec<BoxList>> {
        let _no_grad = tch::no_grad_guard();
        let prepared = self.prepare_targets(proposals, targets)?;
        let sampled = self.sampler.sample(prepared.iter().map(|p| &p.labels));
        let (rows, chosen) = sampled.all();
        let mut lists = select_rows_of_all(proposals, &rows, &chosen)?;
        let of_samples =
            |part: fn(&MatchedTargets) -> &Tensor| MatchedTargets::all(&prepared, part).index_select(0, &rows);
        let (labels, matched_idxs) = (of_samples(|p| &p.labels), of_samples(|p| &p.matched_idxs));
        let regression_targets = self.regression_targets(&lists, targets, &matched_idxs, &chosen);
        let fields = [("labels", labels), ("regression_targets", regression_targets), ("matched_idxs", matched_idxs)];
        for (name, values) in fields {
            lists.iter_mut().zip(chosen.split(&values)).for_each(|(list, values)| list.add_field(name, values));
        }
        Ok(lists)
    }

    /// The offsets from the samples of all images to the objects that they match; zeros on images without objects.
    fn regression_targets(
        &self,
        samples: &[BoxList],
        targets: &[BoxList],
        matched_idxs: &Tensor,
        rows: &Rows,
    ) -> Tensor {
        let (samples, gt) = (all_boxes(samples), all_boxes(targets).to_device(matched_idxs.device()));
        if gt.size()[0] == 0 {
            return samples.zeros_like();
        }
        let encoded = self.box_coder.encode(&gt.index_select(0, &rows_of_truth(matched_idxs, rows, targets)), &samples);
        if targets.iter().all(|target| !target.is_empty()) {
            return encoded;
        }
        let has_objects: Vec<i64> = targets.iter().map(|target| i64::from(!target.is_empty())).collect();
        encoded.where_scalarother(&rows.spread(&has_objects, encoded.device()).ne(0).unsqueeze(1), 0.0)
    }

    /// `(loss_classifier, loss_box_reg)` of the sampled proposals. The box loss is divided by *all* samples, as in the
    /// original. Without samples a loss is a zero with gradients.
    ///
    /// # Shapes
    /// `class_logits` `[R, classes]`, `box_regression` `[R, 4·classes]` (class-agnostic: `[R, 8]`).
    ///
    /// # Errors
    /// Proposals that do not come from [`subsample`](Self::subsample).
    pub fn losses(
        &self,
        class_logits: &Tensor,
        box_regression: &Tensor,
        proposals: &[BoxList],
    ) -> Result<(Tensor, Tensor)> {
        let labels = all_of_field(proposals, "labels")?;
        let regression_targets = all_of_field(proposals, "regression_targets")?;
        let number = labels.size()[0];
        if number == 0 {
            return Ok((zero_loss(class_logits), zero_loss(box_regression)));
        }
        let loss_classifier = class_logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0);

        // The others count as 0, so that nobody has to wait for the number of positives.
        let positive = labels.gt(0).unsqueeze(1);
        let first_column = if self.cls_agnostic_bbox_reg { labels.full_like(4) } else { &labels * 4 };
        let columns = first_column.unsqueeze(1) + Tensor::arange(4, (Kind::Int64, labels.device()));
        let loss_box_reg = smooth_l1_loss(
            &box_regression.gather(1, &columns, false).where_scalarother(&positive, 0.0),
            &regression_targets.where_scalarother(&positive, 0.0),
            1.0,
            false,
        ) / number as f64;
        Ok((loss_classifier, loss_box_reg))
    }
}

/// Matches the proposals of each image to its ground truth.
///
/// # Errors
/// Ground truth without the field `labels`.
pub(crate) fn match_proposals(
    matcher: &Matcher,
    proposals: &[BoxList],
    targets: &[BoxList],
) -> Result<Vec<MatchedTargets>> {
    if proposals.is_empty() {
        return Ok(Vec::new());
    }
    matcher.match_classes(targets, Predictions::OfEach(&all_boxes(proposals), Rows::of_boxes(proposals).lengths()))
}

/// The matcher of `MODEL.ROI_HEADS`, which all heads use.
///
/// # Errors
/// Thresholds in the wrong order.
pub(crate) fn make_roi_matcher(cfg: &Config) -> Result<Matcher> {
    let roi_heads = &cfg.model.roi_heads;
    Matcher::new(roi_heads.fg_iou_threshold, roi_heads.bg_iou_threshold, false).context("MODEL.ROI_HEADS")
}

/// The box coder of `MODEL.ROI_HEADS.BBOX_REG_WEIGHTS`.
///
/// # Errors
/// Other than four weights.
pub(crate) fn make_roi_box_coder(cfg: &Config) -> Result<BoxCoder> {
    let weights = &cfg.model.roi_heads.bbox_reg_weights;
    let weights = <[f64; 4]>::try_from(weights.0.as_slice())
        .with_context(|| format!("MODEL.ROI_HEADS.BBOX_REG_WEIGHTS needs four numbers, not {:?}", weights.0))?;
    Ok(BoxCoder::new(weights))
}

/// The loss computation of `MODEL.ROI_HEADS`.
///
/// # Errors
/// Thresholds in the wrong order, or other than four box weights.
pub fn make_roi_box_loss_evaluator(cfg: &Config) -> Result<FastRcnnLossComputation> {
    let roi_heads = &cfg.model.roi_heads;
    Ok(FastRcnnLossComputation {
        matcher: make_roi_matcher(cfg)?,
        sampler: BalancedPositiveNegativeSampler::new(roi_heads.batch_size_per_image, roi_heads.positive_fraction),
        box_coder: make_roi_box_coder(cfg)?,
        cls_agnostic_bbox_reg: cfg.model.cls_agnostic_bbox_reg,
    })
}
