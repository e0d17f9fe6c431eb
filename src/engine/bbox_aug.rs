//! Test-time augmentation: boxes from several views of an image, merged by one NMS (`TEST.BBOX_AUG`).

use anyhow::{ensure, Context, Result};
use tch::{Device, Tensor};

use crate::config::Config;
use crate::data::transforms::{resize, Normalize, Resize, RgbImage};
use crate::modeling::detector::GeneralizedRcnn;
use crate::structures::{cat_boxlist, to_image_list, BoxList, Flip, ImageList};

/// One way to show an image to the network.
#[derive(Debug)]
struct View {
    size: i64,
    resize: Resize,
    flip: bool,
}

impl View {
    fn of(&self, image: &RgbImage) -> RgbImage {
        let (height, width) = self.resize.get_size(image.size(), self.size);
        let seen = resize(image, (width as usize, height as usize));
        if self.flip {
            seen.transpose(Flip::LeftRight)
        } else {
            seen
        }
    }
}

/// What `TEST.BBOX_AUG` asks for, ready for use.
#[derive(Debug)]
pub struct BboxAug {
    /// The identity (the usual test size) first.
    views: Vec<View>,
    normalize: Normalize,
    size_divisibility: i64,
    num_classes: i64,
}

impl BboxAug {
    /// The views of the configuration.
    ///
    /// # Errors
    /// Sizes that are not positive, or pixel statistics that cannot be used; names the key.
    pub fn new(cfg: &Config) -> Result<Self> {
        let aug = &cfg.test.bbox_aug;
        let mut views = Vec::new();
        let mut add = |size: i64, resize: Resize, flipped_too: bool| {
            views.push(View { size, resize: resize.clone(), flip: false });
            if flipped_too {
                views.push(View { size, resize, flip: true });
            }
        };
        add(cfg.input.min_size_test, Resize::from_config(cfg, false)?, aug.h_flip);
        for scale in aug.scales.iter() {
            let max_size = ("TEST.BBOX_AUG.MAX_SIZE", Some(aug.max_size));
            let resize = Resize::of_keys(("TEST.BBOX_AUG.SCALES", vec![*scale]), max_size)?;
            add(*scale, resize, aug.scale_h_flip);
        }
        Ok(Self {
            views,
            normalize: Normalize::from_config(cfg)?,
            size_divisibility: cfg.dataloader.size_divisibility,
            num_classes: cfg.model.roi_box_head.num_classes,
        })
    }

    fn batch(&self, view: &View, images: &[RgbImage], device: Device) -> ImageList {
        let tensors: Vec<Tensor> = images.iter().map(|image| self.normalize.to_tensor(&view.of(image))).collect();
        to_image_list(&tensors, self.size_divisibility).to_device(device)
    }
}

/// The detections of images as they were read, in pixels of the identity view (each list's size).
///
/// The boxes of all views go through one NMS per class. Masks and keypoints are those that the heads find for the
/// merged boxes in the identity view; the original fails with masks on.
///
/// # Errors
/// No image, or a model without a box head.
pub fn im_detect_bbox_aug(
    model: &GeneralizedRcnn,
    aug: &BboxAug,
    images: &[RgbImage],
    device: Device,
) -> Result<Vec<BoxList>> {
    let heads = model.roi_heads().context("TEST.BBOX_AUG needs a model with a box head")?;
    ensure!(!images.is_empty(), "there is no image to detect in");
    let _no_grad = tch::no_grad_guard();
    let _autocast = model.autocast()?;
    let mut identity = None;
    let mut merged: Vec<Vec<BoxList>> = Vec::new();
    for view in &aug.views {
        let (features, mut found) = model.detect_unfiltered(&aug.batch(view, images, device))?;
        if view.flip {
            found = found.iter().map(|boxes| boxes.transpose(Flip::LeftRight)).collect::<Result<_>>()?;
        }
        if identity.is_none() {
            identity = Some(features);
            merged = found.into_iter().map(|boxes| vec![boxes]).collect();
        } else {
            for (views, boxes) in merged.iter_mut().zip(found) {
                views.push(boxes.resize(views[0].size())?);
            }
        }
    }
    let merged = merged.iter().map(|views| cat_boxlist(views)).collect::<Result<Vec<_>>>()?;
    let detections = heads.r#box.post_processor().filter_results(&merged, aug.num_classes)?;
    let features = identity.context("the identity view comes first")?;
    heads.detect_from_boxes(&features, detections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modeling::detector::tests::{config, model, C4, FPN, FPN_MASK};

    const AUG: &str =
        "INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 96 TEST.BBOX_AUG.ENABLED True TEST.BBOX_AUG.H_FLIP True \
        TEST.BBOX_AUG.SCALES (48,) TEST.BBOX_AUG.SCALE_H_FLIP True";

    fn picture() -> RgbImage {
        RgbImage::new(60, 40, (0..60 * 40 * 3).map(|i| (i * 7 % 251) as u8).collect())
    }

    #[test]
    fn masks_come_from_the_identity_view() {
        let cfg = config(&[FPN, FPN_MASK, AUG]);
        let (model, _) = model(&cfg);
        let aug = BboxAug::new(&cfg).unwrap();
        let found = im_detect_bbox_aug(&model, &aug, &[picture(), picture()], Device::Cpu).unwrap();
        assert_eq!(found.len(), 2);
        for boxes in &found {
            assert_eq!(boxes.size(), (96, 64));
            assert!(!boxes.is_empty());
            assert_eq!(boxes.tensor_field("mask").unwrap().size(), [boxes.len() as i64, 1, 28, 28]);
        }
    }

    #[test]
    fn without_other_views_it_is_plain_detection() {
        let cfg = config(&[FPN, FPN_MASK, "INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 96"]);
        let (model, _) = model(&cfg);
        let aug = BboxAug::new(&cfg).unwrap();
        assert_eq!(aug.views.len(), 1);
        let augmented = im_detect_bbox_aug(&model, &aug, &[picture()], Device::Cpu).unwrap().remove(0);
        let batch = aug.batch(&aug.views[0], &[picture()], Device::Cpu);
        let plain = model.detect(&batch).unwrap().remove(0);
        assert_eq!(augmented.bbox(), plain.bbox());
        assert_eq!(augmented.tensor_field("mask").unwrap(), plain.tensor_field("mask").unwrap());
    }

    #[test]
    fn a_model_without_box_head_is_refused() {
        let (model, _) = model(&config(&[C4, "MODEL.RPN_ONLY True"]));
        let aug = BboxAug::new(&config(&[C4, AUG])).unwrap();
        let message = im_detect_bbox_aug(&model, &aug, &[picture()], Device::Cpu).unwrap_err().to_string();
        assert!(message.contains("TEST.BBOX_AUG"), "{message}");
    }

    #[test]
    fn sizes_that_cannot_be_used_name_their_key() {
        for (key, value) in [
            ("TEST.BBOX_AUG.SCALES", "(48,0)"),
            ("TEST.BBOX_AUG.MAX_SIZE", "0"),
            ("INPUT.MIN_SIZE_TEST", "-64"),
            ("INPUT.MAX_SIZE_TEST", "0"),
            ("INPUT.PIXEL_STD", "(1.0,0.0,1.0)"),
        ] {
            let message = BboxAug::new(&config(&[FPN, AUG, &format!("{key} {value}")])).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }
}
