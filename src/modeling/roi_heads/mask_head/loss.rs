//! Targets and loss of the mask head (Mask R-CNN, section 3).

use anyhow::{Context, Result};
use tch::{Device, Kind, Reduction, Tensor};

use crate::layers::full_precision;
use crate::modeling::batch::{all_boxes, all_of_field, Rows};
use crate::modeling::utils::{cat, zero_loss};
use crate::structures::{to_device, BoxList, PolygonCrop, SegmentationMask};

/// The part of each mask that lies in its box, as `size`×`size` pixels of 0 and 1. The crop of polygons is upstream's,
/// which moves the corner of the box into the image first. The fork does not, but proposals already lie in the image,
/// so the two agree here.
///
/// # Shapes
/// One mask and one box (xyxy) per row → `[P, size, size]` on the CPU, uint8 for polygons, else the kind of the masks.
///
/// # Errors
/// Other numbers of masks and boxes.
pub fn project_masks_on_boxes(masks: &SegmentationMask, boxes: &Tensor, size: i64) -> Result<Tensor> {
    let (near, far) = (boxes.narrow(1, 0, 2), boxes.narrow(1, 2, 2));
    // Without the + 1 of inclusive corners a box one pixel wide has no width, which the original cannot resize.
    let far = far.where_self(&far.gt_tensor(&near), &(&near + 1.0));
    masks.crop_and_resize(&Tensor::cat(&[near, far], 1), (size, size), PolygonCrop::default())
}

/// Makes the mask targets of positive proposals and compares them with the logits.
#[derive(Clone, Debug)]
pub struct MaskRcnnLossComputation {
    discretization_size: i64,
}

impl MaskRcnnLossComputation {
    /// Targets are `discretization_size` (`MODEL.ROI_MASK_HEAD.RESOLUTION`) pixels wide and high.
    pub fn new(discretization_size: i64) -> Self {
        Self { discretization_size }
    }

    /// The targets of positive proposals of each image, on the CPU.
    ///
    /// # Shapes
    /// `[P, M, M]` of 0 and 1 for each image, of the kind that [`project_masks_on_boxes`] gives.
    ///
    /// # Errors
    /// Ground truth without the field `masks`, or with fewer masks than boxes.
    pub fn prepare_targets(&self, positives: &[BoxList], targets: &[BoxList]) -> Result<Vec<Tensor>> {
        let _no_grad = tch::no_grad_guard();
        // Polygons are on the CPU: boxes and matches of all images come there in one copy. (A number of an object is
        // exact in float32.)
        let matched = all_of_field(positives, "matched_idxs")?.unsqueeze(1).to_kind(Kind::Float);
        let rows = Tensor::cat(&[all_boxes(positives), matched], 1).to_device(Device::Cpu);
        Rows::of_boxes(positives)
            .split(&rows)
            .iter()
            .zip(targets)
            .map(|(rows, target)| {
                if rows.size()[0] == 0 {
                    let options = (Kind::Uint8, Device::Cpu);
                    return Ok(Tensor::zeros([0, self.discretization_size, self.discretization_size], options));
                }
                let masks = target.masks().context("masks are needed to train MODEL.MASK_ON")?;
                let matched = rows.select(1, 4).to_kind(Kind::Int64);
                project_masks_on_boxes(&masks.select(&matched)?, &rows.narrow(1, 0, 4), self.discretization_size)
            })
            .collect()
    }

    /// `loss_mask` over the positive proposals, each with the logits of its class. Without any it is a zero with
    /// gradients.
    ///
    /// # Shapes
    /// `mask_logits` `[P, classes, M, M]` for the proposals of all images.
    ///
    /// # Errors
    /// As [`prepare_targets`](Self::prepare_targets); proposals that the box head has not sampled.
    pub fn loss(&self, positives: &[BoxList], mask_logits: &Tensor, targets: &[BoxList]) -> Result<Tensor> {
        // They go to the device as bytes, a quarter of what they are as numbers.
        let mask_targets = to_device(&cat(&self.prepare_targets(positives, targets)?, 0), mask_logits.device());
        if mask_targets.numel() == 0 {
            return Ok(zero_loss(mask_logits));
        }
        let labels = all_of_field(positives, "labels")?;
        let row = Tensor::arange(labels.size()[0], (Kind::Int64, labels.device()));
        let logits = full_precision(&mask_logits.index(&[Some(row), Some(labels)]));
        Ok(logits.binary_cross_entropy_with_logits::<Tensor>(
            &mask_targets.to_kind(Kind::Float),
            None,
            None,
            Reduction::Mean,
        ))
    }
}
