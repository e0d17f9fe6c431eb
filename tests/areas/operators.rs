//! The operators of `csrc/ops` in the ways in which they run, so that one test can be given each.

use maskrcnn_benchmark::ffi::{self, DeformRoiPoolGeometry};
use maskrcnn_benchmark::layers::dcn::{self, DeformConvGeometry};
use maskrcnn_benchmark::layers::{self, IouMatches, NmsGroups, Predictions, SuppressionRule};
use tch::{Device, Kind, Tensor};

use crate::cuda_emulated::operators as emulated;

#[derive(Clone, Copy, Debug)]
pub enum Operators {
    /// Those of the library, with tensors on this device.
    On(Device),
    /// The CUDA code of all of them, wrappers and autograd functions included, with tensors on the host.
    Emulated,
}

impl Operators {
    pub fn device(self) -> Device {
        match self {
            Self::On(device) => device,
            Self::Emulated => Device::Cpu,
        }
    }

    /// Of [`nms_mask`](Self::nms_mask).
    pub fn suppression_rule(self) -> SuppressionRule {
        match self {
            Self::On(device) => SuppressionRule::of_device(device),
            Self::Emulated => SuppressionRule::Above,
        }
    }

    pub fn roi_align(self, input: &Tensor, rois: &Tensor, size: (i64, i64), scale: f64, ratio: i64) -> Tensor {
        match self {
            Self::On(_) => layers::roi_align(input, rois, size, scale, ratio),
            Self::Emulated => emulated::roi_align(input, rois, size, scale, ratio).expect("roi_align"),
        }
    }

    pub fn multi_scale_roi_align(
        self,
        maps: &[Tensor],
        rois: &Tensor,
        levels: &Tensor,
        size: (i64, i64),
        scales: &[f64],
        ratio: i64,
    ) -> Tensor {
        match self {
            Self::On(_) => layers::multi_scale_roi_align(maps, rois, levels, size, scales, ratio),
            Self::Emulated => {
                emulated::multi_scale_roi_align(maps, rois, Some(levels), size, scales, ratio).expect("roi_align")
            }
        }
    }

    pub fn roi_pool(self, input: &Tensor, rois: &Tensor, size: (i64, i64), scale: f64) -> Tensor {
        match self {
            Self::On(_) => layers::roi_pool(input, rois, size, scale),
            Self::Emulated => emulated::roi_pool(input, rois, size, scale).expect("roi_pool"),
        }
    }

    pub fn nms(self, boxes: &Tensor, scores: &Tensor, threshold: f64, rule: SuppressionRule) -> Tensor {
        match self {
            Self::On(_) => layers::nms_with_rule(boxes, scores, threshold, rule),
            Self::Emulated => emulated::nms(boxes, scores, threshold, rule == SuppressionRule::AtLeast).expect("nms"),
        }
    }

    pub fn nms_mask(self, boxes: &Tensor, scores: &Tensor, groups: NmsGroups<'_>, threshold: f64) -> Tensor {
        match self {
            Self::On(_) => layers::nms_mask(boxes, scores, groups, threshold),
            Self::Emulated => emulated::nms_mask(boxes, scores, groups, threshold).expect("nms_mask"),
        }
    }

    pub fn match_by_iou(self, gt: &Tensor, gt_counts: &[i64], predictions: Predictions) -> IouMatches {
        match self {
            Self::On(_) => layers::match_by_iou(gt, gt_counts, predictions),
            Self::Emulated => {
                let [best_iou, best_gt, attains_gt_maximum] =
                    emulated::match_by_iou(gt, gt_counts, predictions).expect("match_by_iou");
                IouMatches { best_iou, best_gt, attains_gt_maximum }
            }
        }
    }

    /// In the type of the logits, where the layer would convert them to float32.
    pub fn sigmoid_focal_loss(self, logits: &Tensor, targets: &Tensor, gamma: f64, alpha: f64) -> Tensor {
        match self {
            Self::On(_) if logits.kind() == Kind::Float => layers::sigmoid_focal_loss(logits, targets, gamma, alpha),
            Self::On(_) => ffi::sigmoid_focal_loss(logits, targets, gamma, alpha).expect("sigmoid_focal_loss"),
            Self::Emulated => emulated::sigmoid_focal_loss(logits, targets, gamma, alpha).expect("sigmoid_focal_loss"),
        }
    }

    /// Overwrites `x`.
    pub fn channel_affine(
        self,
        x: Tensor,
        constants: (Option<&Tensor>, &Tensor),
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Tensor {
        match self {
            Self::On(_) => ffi::channel_affine(x, constants, residual, relu).expect("channel_affine"),
            Self::Emulated => emulated::channel_affine(&x, constants, residual, relu).expect("channel_affine"),
        }
    }

    /// In the type of the input, where the layer would compute in float32.
    pub fn deform_conv(
        self,
        input: &Tensor,
        offset: &Tensor,
        mask: Option<&Tensor>,
        weight: &Tensor,
        bias: Option<&Tensor>,
        geometry: DeformConvGeometry,
    ) -> Tensor {
        let output = match (self, mask) {
            (Self::On(_), None) if input.kind() == Kind::Float => dcn::deform_conv(input, offset, weight, geometry),
            (Self::On(_), Some(mask)) if input.kind() == Kind::Float => {
                return dcn::modulated_deform_conv(input, offset, mask, weight, bias, geometry);
            }
            (Self::On(_), _) => ffi::deform_conv(input, offset, mask, weight, &geometry.into()).expect("deform_conv"),
            (Self::Emulated, _) => {
                emulated::deform_conv(input, offset, mask, weight, &geometry.into()).expect("deform_conv")
            }
        };
        match bias {
            Some(bias) => output + bias.view([1, -1, 1, 1]),
            None => output,
        }
    }

    pub fn deform_roi_pool(
        self,
        input: &Tensor,
        rois: &Tensor,
        trans: Option<&Tensor>,
        geometry: &DeformRoiPoolGeometry,
    ) -> Tensor {
        match self {
            Self::On(_) => ffi::deform_roi_pool(input, rois, trans, geometry),
            Self::Emulated => return emulated::deform_roi_pool(input, rois, trans, geometry).expect("deform_roi_pool"),
        }
        .expect("deform_roi_pool")
    }
}
