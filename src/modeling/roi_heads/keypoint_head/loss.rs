//! Sampling, targets and loss of the keypoint head (Mask R-CNN, section 5).

use anyhow::{Context, Result};
use tch::{Kind, Reduction, Tensor};

use crate::config::Config;
use crate::ffi;
use crate::modeling::balanced_positive_negative_sampler::BalancedPositiveNegativeSampler;
use crate::modeling::batch::{all_boxes, select_rows_of_all, Rows};
use crate::modeling::matcher::{MatchedTargets, Matcher};
use crate::modeling::roi_heads::box_head::loss::{make_roi_matcher, match_proposals};
use crate::modeling::utils::{cat, zero_loss};
use crate::structures::{keypoints_to_heat_map, BoxList};

/// Samples positive proposals and compares their heat maps with the keypoints of the ground truth.
#[derive(Debug)]
pub struct KeypointRcnnLossComputation {
    matcher: Matcher,
    sampler: BalancedPositiveNegativeSampler,
    discretization_size: i64,
}

/// The positive proposals that the keypoint head trains on.
#[derive(Debug)]
pub struct KeypointSamples {
    /// Per image, with the field `keypoints` of the matched ground truth.
    pub proposals: Vec<BoxList>,
    /// Their rows among the proposals of all images, `[P]` int64.
    pub rows: Tensor,
}

/// Which keypoints lie in the boxes, borders included.
///
/// # Shapes
/// `points` `[N, K, 3]`, `boxes` `[N, 4]` → `[N, K]` bool.
fn within_box(points: &Tensor, boxes: &Tensor) -> Tensor {
    let side = |axis: i64| {
        let at = points.select(2, axis);
        at.ge_tensor(&boxes.narrow(1, axis, 1)).logical_and(&at.le_tensor(&boxes.narrow(1, axis + 2, 1)))
    };
    side(0).logical_and(&side(1))
}

/// Which objects have a visible keypoint in their own box, `[N]` bool for each image with objects.
fn objects_that_show_keypoints(targets: &[BoxList]) -> Result<Vec<Tensor>> {
    let with_objects: Vec<BoxList> = targets.iter().filter(|t| !t.is_empty()).map(BoxList::shallow_clone).collect();
    if with_objects.is_empty() {
        return Ok(Vec::new());
    }
    let points = all_keypoints(&with_objects).context("keypoints are needed to train MODEL.KEYPOINT_ON")?;
    let visible = within_box(&points, &all_boxes(&with_objects)).logical_and(&points.select(2, 2).gt(0.0));
    Ok(Rows::of_boxes(&with_objects).split(&visible.any_dim(1, false)))
}

/// The keypoints of all lists, end to end: `[ΣN, K, 3]`.
fn all_keypoints(lists: &[BoxList]) -> Result<Tensor> {
    let parts = lists.iter().map(|list| Ok(list.keypoints()?.keypoints().shallow_clone()));
    ffi::cat_rows(&parts.collect::<Result<Vec<_>>>()?).context("keypoints of the images of one batch")
}

impl KeypointRcnnLossComputation {
    /// The targets of the proposals, per image: those whose ground truth shows no keypoint inside *its own* box are
    /// ignored, as in the original.
    ///
    /// # Errors
    /// Ground truth without the fields `labels` and `keypoints`.
    pub fn prepare_targets(&self, proposals: &[BoxList], targets: &[BoxList]) -> Result<Vec<MatchedTargets>> {
        let mut prepared = match_proposals(&self.matcher, proposals, targets)?;
        let with_objects = prepared.iter_mut().zip(targets).filter(|(_, target)| !target.is_empty());
        for ((prepared, _), shown) in with_objects.zip(objects_that_show_keypoints(targets)?) {
            let shown = shown.to_device(prepared.labels.device()).index_select(0, &prepared.matched_idxs.clamp_min(0));
            prepared.labels = prepared.labels.masked_fill(&shown.logical_not(), -1);
        }
        Ok(prepared)
    }

    /// The sampler, for looking at what it draws.
    pub fn sampler(&self) -> &BalancedPositiveNegativeSampler {
        &self.sampler
    }

    /// Samples again among the proposals that the box head sampled, and keeps the positives.
    ///
    /// # Errors
    /// Ground truth without the fields `labels` and `keypoints`.
    pub fn subsample(&self, proposals: &[BoxList], targets: &[BoxList]) -> Result<KeypointSamples> {
        let _no_grad = tch::no_grad_guard();
        let prepared = self.prepare_targets(proposals, targets)?;
        let sampled = self.sampler.sample(prepared.iter().map(|p| &p.labels));
        let (rows, chosen) = (sampled.positive, sampled.positive_rows);
        let mut positives = select_rows_of_all(proposals, &rows, &chosen)?;
        let matched = MatchedTargets::all(&prepared, |prepared| &prepared.matched_idxs);
        let matched = chosen.split(&matched.index_select(0, &rows));
        for ((positives, target), matched) in positives.iter_mut().zip(targets).zip(matched) {
            if !target.is_empty() {
                let keypoints = target.keypoints()?.to_device(matched.device()).select(&matched)?;
                positives.add_field("keypoints", keypoints);
            }
        }
        Ok(KeypointSamples { proposals: positives, rows })
    }

    /// The cell of each keypoint in the heat map of its proposal, and whether it counts: both `[P, K]` int64, per image
    /// that has positives.
    ///
    /// # Errors
    /// Proposals that do not come from [`subsample`](Self::subsample).
    pub fn heat_map_targets(&self, proposals: &[BoxList]) -> Result<Vec<(Tensor, Tensor)>> {
        let with_positives: Vec<BoxList> =
            proposals.iter().filter(|p| !p.is_empty()).map(BoxList::shallow_clone).collect();
        if with_positives.is_empty() {
            return Ok(Vec::new());
        }
        let (points, boxes) = (all_keypoints(&with_positives)?, all_boxes(&with_positives));
        let (cells, valid) = keypoints_to_heat_map(&points, &boxes, self.discretization_size);
        let rows = Rows::of_boxes(&with_positives);
        Ok(rows.split(&cells).into_iter().zip(rows.split(&valid)).collect())
    }

    /// `loss_kp`: the cross-entropy of each visible keypoint over the cells of its heat map. Without any it is a zero
    /// with gradients.
    ///
    /// # Shapes
    /// `keypoint_logits` `[P, K, S, S]` for the proposals of all images.
    ///
    /// # Errors
    /// As [`heat_map_targets`](Self::heat_map_targets).
    pub fn loss(&self, proposals: &[BoxList], keypoint_logits: &Tensor) -> Result<Tensor> {
        let (cells, valid): (Vec<Tensor>, Vec<Tensor>) = self
            .heat_map_targets(proposals)?
            .into_iter()
            .map(|(cells, valid)| (cells.flatten(0, -1), valid.flatten(0, -1)))
            .unzip();
        if cells.is_empty() {
            return Ok(zero_loss(keypoint_logits));
        }
        let valid = cat(&valid, 0).nonzero().squeeze_dim(1);
        if valid.numel() == 0 {
            return Ok(zero_loss(keypoint_logits));
        }
        let (number, keypoints, height, width) = keypoint_logits.size4()?;
        let logits = keypoint_logits.reshape([number * keypoints, height * width]).index_select(0, &valid);
        let cells = cat(&cells, 0).to_kind(Kind::Int64).index_select(0, &valid);
        Ok(logits.cross_entropy_loss::<Tensor>(&cells, None, Reduction::Mean, -100, 0.0))
    }
}

/// The loss computation of `MODEL.ROI_KEYPOINT_HEAD` and `MODEL.ROI_HEADS`.
///
/// # Errors
/// Thresholds in the wrong order.
pub fn make_roi_keypoint_loss_evaluator(cfg: &Config) -> Result<KeypointRcnnLossComputation> {
    let roi_heads = &cfg.model.roi_heads;
    Ok(KeypointRcnnLossComputation {
        matcher: make_roi_matcher(cfg)?,
        sampler: BalancedPositiveNegativeSampler::new(roi_heads.batch_size_per_image, roi_heads.positive_fraction),
        discretization_size: cfg.model.roi_keypoint_head.resolution,
    })
}
