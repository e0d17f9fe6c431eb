//! Generalized R-CNN: a backbone, a proposal network, and heads.

use anyhow::{ensure, Context, Result};
use tch::{Device, Tensor};

use crate::config::Config;
use crate::ffi::{self, Autocast};
use crate::layers::{ParamPath, Parameters, Precision};
use crate::modeling::backbone::build_backbone;
use crate::modeling::registry::{Backbone, ModelRegistries};
use crate::modeling::roi_heads::{build_roi_heads, CombinedRoiHeads};
use crate::modeling::rpn::{build_rpn, ProposalNetwork};
use crate::structures::{BoxList, ImageList};

/// Losses by the original's names, in its order: heads (`loss_classifier`, `loss_box_reg`, `loss_mask`, `loss_kp`),
/// then `loss_objectness`, `loss_rpn_box_reg`; or `loss_retina_cls`, `loss_retina_reg`.
pub type Losses = Vec<(String, Tensor)>;

/// The detector. Training and inference are two methods, [`losses`](Self::losses) and [`detect`](Self::detect).
pub struct GeneralizedRcnn {
    backbone: Box<dyn Backbone>,
    rpn: ProposalNetwork,
    roi_heads: Option<CombinedRoiHeads>,
    parameters: Parameters,
    precision: Precision,
    device: Device,
    channels_last: bool,
}

impl GeneralizedRcnn {
    /// See [`build_detection_model`](super::build_detection_model).
    ///
    /// # Errors
    /// Unknown names, or keys that contradict each other.
    pub fn new(cfg: &Config, root: &ParamPath, registries: &ModelRegistries) -> Result<Self> {
        let precision = cfg.dtype.parse()?;
        let backbone = build_backbone(cfg, &root.sub("backbone"), registries)?;
        let maps = backbone.feature_maps();
        let rpn = build_rpn(cfg, &root.sub("rpn"), maps, registries)?;
        let roi_heads = build_roi_heads(cfg, &root.sub("roi_heads"), maps, registries)?;
        let device = root.device();
        let (parameters, channels_last) = (root.parameters().clone(), device.is_cuda());
        parameters.lay_out(channels_last);
        Ok(Self { backbone, rpn, roi_heads, parameters, precision, device, channels_last })
    }

    /// Whether feature maps have the channels of each pixel side by side in memory, which tensor cores read without
    /// reordering. On CUDA they have so unless it is switched off here.
    ///
    /// # Errors
    /// A model on the CPU, where there is no choice: channels-last is the faster format in inference, and in training
    /// oneDNN writes its weight gradients out of bounds.
    pub fn with_channels_last(self, channels_last: bool) -> Result<Self> {
        ensure!(
            self.device != Device::Cpu,
            "the format is a choice on a GPU only: on the CPU inference is channels-last, and training NCHW, since the \
             channels-last weight gradients of oneDNN 3.10 write out of bounds for narrow convolutions"
        );
        self.parameters.lay_out(channels_last);
        Ok(Self { channels_last, ..self })
    }

    /// What the model computes in (`DTYPE`).
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Mixed precision for this thread, if `DTYPE` asks for it, for as long as the result lives. Whoever runs parts of
    /// the model by themselves holds it; [`losses`](Self::losses) and the `detect` methods do so already.
    ///
    /// # Errors
    /// A device without mixed precision.
    pub fn autocast(&self) -> Result<Option<Autocast>> {
        self.precision.autocast(self.device)
    }

    /// The part that makes feature maps.
    pub fn backbone(&self) -> &dyn Backbone {
        self.backbone.as_ref()
    }

    /// The part that makes proposals, or RetinaNet.
    pub fn rpn(&self) -> &ProposalNetwork {
        &self.rpn
    }

    /// The heads; none for RetinaNet and RPN-only models.
    pub fn roi_heads(&self) -> Option<&CombinedRoiHeads> {
        self.roi_heads.as_ref()
    }

    /// The losses of a batch. Random samples come from libtorch's default generator, in the original's order.
    ///
    /// An image without ground truth is all background (the original cannot train on it): every term stays finite, and
    /// a term without samples is a zero whose gradients are zeros.
    ///
    /// # Shapes
    /// `images.tensors` `[N, 3, H, W]`, one target per image, in pixels of the image before padding.
    ///
    /// # Errors
    /// Other than one target per image, or targets without a field that a head needs (`labels`; `masks` or
    /// `keypoints` where these heads are on).
    pub fn losses(&self, images: &ImageList, targets: &[BoxList]) -> Result<Losses> {
        ensure!(
            images.len() == targets.len(),
            "a batch of {} images came with targets for {}",
            images.len(),
            targets.len()
        );
        let autocast = self.autocast()?;
        if let Some(autocast) = &autocast {
            autocast.cast_ahead(&self.parameters.factors())?;
        }
        let features = match self.channels_last {
            true => self.backbone.forward(&ffi::channels_last(&images.tensors), true),
            false => self.backbone.forward(&images.tensors, true),
        };
        let (proposals, rpn_losses) = self.rpn.losses(images, &features, targets)?;
        let mut losses = match &self.roi_heads {
            Some(heads) => heads.losses(&features, &proposals, targets)?,
            None => Losses::new(),
        };
        losses.extend(rpn_losses);
        Ok(losses)
    }

    /// The detections of each image, in pixels of the image before padding: fields `scores`, `labels`, and `mask` and
    /// `keypoints` where these heads are on. An RPN-only model gives its proposals, field `objectness`, best first.
    ///
    /// # Shapes
    /// `images.tensors` `[N, 3, H, W]`.
    ///
    /// # Errors
    /// The backbone gives another number of maps than the anchors or fewer than the poolers have levels.
    pub fn detect(&self, images: &ImageList) -> Result<Vec<BoxList>> {
        let _no_grad = tch::no_grad_guard();
        let _autocast = self.autocast()?;
        let features = self.features(images);
        let proposals = self.rpn.detect(images, &features)?;
        match &self.roi_heads {
            Some(heads) => heads.detect(&features, &proposals),
            None => Ok(proposals),
        }
    }

    /// The features of a batch, and the box of every proposal for every class with its score, before thresholds and
    /// NMS: for merging several views of an image.
    ///
    /// # Shapes
    /// `images.tensors` `[N, 3, H, W]`.
    ///
    /// # Errors
    /// A model without a box head.
    pub fn detect_unfiltered(&self, images: &ImageList) -> Result<(Vec<Tensor>, Vec<BoxList>)> {
        let _no_grad = tch::no_grad_guard();
        let _autocast = self.autocast()?;
        let heads = self.roi_heads.as_ref().context("the model has no box head")?;
        let features = self.features(images);
        let proposals = self.rpn.detect(images, &features)?;
        let (class_logits, box_regression) = heads.r#box.predict(&features, &proposals)?;
        let boxes = heads.r#box.post_processor().unfiltered(&class_logits, &box_regression, &proposals)?;
        Ok((features, boxes))
    }

    /// The feature maps for inference. Channels-last convolutions are the faster ones on the CPU. (Training stays with
    /// NCHW: the channels-last weight gradients of oneDNN 3.10 write out of bounds for narrow convolutions.)
    ///
    /// # Shapes
    /// `images.tensors` `[N, 3, H, W]`.
    pub fn features(&self, images: &ImageList) -> Vec<Tensor> {
        if self.channels_last || images.tensors.device() == Device::Cpu {
            self.backbone.forward(&ffi::channels_last(&images.tensors), false)
        } else {
            self.backbone.forward(&images.tensors, false)
        }
    }
}
