//! Test-time augmentation: boxes from several views of an image, merged by one NMS (`TEST.BBOX_AUG`).

use anyhow::{ensure, Context, Result};
use tch::{Device, Tensor};

use crate::config::Config;
use crate::data::transforms::{resize, Normalize, Resize, RgbImage};
use crate::modeling::detector::GeneralizedRcnn;
use crate::structures::{cat_boxlist, to_image_list, BoxList, Flip, ImageList};

/// One way to show an image to the network.
struct View {
    min_size: i64,
    max_size: i64,
    flip: bool,
}

impl View {
    /// The views of the configuration, the identity (the usual test size) first.
    fn all(cfg: &Config) -> Vec<View> {
        let aug = &cfg.test.bbox_aug;
        let (min_size, max_size) = (cfg.input.min_size_test, cfg.input.max_size_test);
        let mut views = vec![View { min_size, max_size, flip: false }];
        if aug.h_flip {
            views.push(View { min_size, max_size, flip: true });
        }
        for scale in aug.scales.iter() {
            views.push(View { min_size: *scale, max_size: aug.max_size, flip: false });
            if aug.scale_h_flip {
                views.push(View { min_size: *scale, max_size: aug.max_size, flip: true });
            }
        }
        views
    }

    fn batch(&self, cfg: &Config, images: &[RgbImage], device: Device) -> Result<ImageList> {
        let sizes = Resize::new(vec![self.min_size], Some(self.max_size)).context("TEST.BBOX_AUG")?;
        let normalize = Normalize::from_config(cfg)?;
        let tensors: Vec<Tensor> = images
            .iter()
            .map(|image| {
                let (height, width) = sizes.get_size(image.size(), self.min_size);
                let seen = resize(image, (width as usize, height as usize));
                normalize.to_tensor(&if self.flip { seen.transpose(Flip::LeftRight) } else { seen })
            })
            .collect();
        Ok(to_image_list(&tensors, cfg.dataloader.size_divisibility).to_device(device))
    }
}

/// The detections of images as they were read, in pixels of the identity view (each list's size).
///
/// The boxes of all views go through one NMS per class. Masks and keypoints are those that the heads find for the
/// merged boxes in the identity view; the original fails with masks on.
///
/// # Errors
/// A model without a box head, or sizes that are not positive.
pub fn im_detect_bbox_aug(
    model: &GeneralizedRcnn,
    cfg: &Config,
    images: &[RgbImage],
    device: Device,
) -> Result<Vec<BoxList>> {
    let heads = model.roi_heads().context("TEST.BBOX_AUG needs a model with a box head")?;
    ensure!(!images.is_empty(), "there is no image to detect in");
    let _no_grad = tch::no_grad_guard();
    let _autocast = model.autocast()?;
    let mut identity = None;
    let mut merged: Vec<Vec<BoxList>> = Vec::new();
    for view in View::all(cfg) {
        let (features, mut found) = model.detect_unfiltered(&view.batch(cfg, images, device)?)?;
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
    let detections = heads.r#box.post_processor().filter_results(&merged, cfg.model.roi_box_head.num_classes)?;
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
        let found = im_detect_bbox_aug(&model, &cfg, &[picture(), picture()], Device::Cpu).unwrap();
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
        let augmented = im_detect_bbox_aug(&model, &cfg, &[picture()], Device::Cpu).unwrap().remove(0);
        let batch = View::all(&cfg)[0].batch(&cfg, &[picture()], Device::Cpu).unwrap();
        let plain = model.detect(&batch).unwrap().remove(0);
        assert_eq!(augmented.bbox(), plain.bbox());
        assert_eq!(augmented.tensor_field("mask").unwrap(), plain.tensor_field("mask").unwrap());
    }

    #[test]
    fn a_model_without_box_head_is_refused() {
        let (model, _) = model(&config(&[C4, "MODEL.RPN_ONLY True"]));
        let message =
            im_detect_bbox_aug(&model, &config(&[C4, AUG]), &[picture()], Device::Cpu).unwrap_err().to_string();
        assert!(message.contains("TEST.BBOX_AUG"), "{message}");
    }
}
