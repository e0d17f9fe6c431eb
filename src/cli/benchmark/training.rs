//! Training steps on made-up objects.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::report::Phases;
use crate::config::Config;
use crate::engine::trainer::{backward, total};
use crate::layers::{Parameters, Precision};
use crate::modeling::detector::GeneralizedRcnn;
use crate::solver::{make_optimizer, GradScaler, Sgd};
use crate::structures::{BoxList, ImageList, Keypoints, Mode, SegmentationMask};

/// Objects in an image: two rows of four.
const OBJECTS: i64 = 8;

pub(super) struct Trainer {
    optimizer: Sgd,
    /// With DTYPE float16, as in training.
    scaler: Option<GradScaler>,
    classes: i64,
}

impl Trainer {
    /// # Errors
    /// A `DTYPE` that does not exist.
    pub(super) fn new(cfg: &Config, parameters: &Parameters) -> Result<Self> {
        let mut optimizer = make_optimizer(cfg, parameters);
        // A step costs the same at any rate, and with this one random weights do not run away from run to run.
        optimizer.groups_mut().iter_mut().for_each(|group| group.lr = 0.0);
        let classes =
            if cfg.model.retinanet_on { cfg.model.retinanet.num_classes } else { cfg.model.roi_box_head.num_classes };
        let scaler = (cfg.dtype.parse::<Precision>()? == Precision::Float16).then(GradScaler::default);
        Ok(Self { optimizer, scaler, classes })
    }

    /// The objects of each image, on its device.
    pub(super) fn targets(&self, images: &ImageList) -> Result<Vec<BoxList>> {
        let device = images.tensors.device();
        images.image_sizes.iter().map(|&size| Ok(target(size, self.classes)?.to_device(device))).collect()
    }

    /// Losses, gradients, and an update of the weights, each timed.
    pub(super) fn step(
        &mut self,
        model: &GeneralizedRcnn,
        images: &ImageList,
        targets: &[BoxList],
        phases: &mut Phases,
    ) -> Result<()> {
        let loss = phases.time("losses", || Ok(total(&model.losses(images, targets)?)))?;
        phases.time("gradients", || {
            self.optimizer.zero_grad();
            match &self.scaler {
                Some(scaler) => backward(&(loss * scaler.scale()), None),
                None => backward(&loss, None),
            }
        })?;
        phases.time("SGD", || {
            if let Some(scaler) = &mut self.scaler {
                let finite = scaler.unscale(&self.optimizer)?;
                scaler.update(finite)?;
                if !finite {
                    return Ok(());
                }
            }
            self.optimizer.step();
            Ok(())
        })
    }
}

/// Objects for an image of (height, width): boxes side by side with their own rectangles as masks.
/// `tools/peers.py` makes the same ones.
fn target((height, width): (i64, i64), classes: i64) -> Result<BoxList> {
    let (cell_width, cell_height) = (width as f64 / 4.0, height as f64 / 2.0);
    let corners = |k: i64| {
        let (x, y) = ((k % 4) as f64 * cell_width + 4.0, (k / 4) as f64 * cell_height + 4.0);
        [x, y, x + 0.8 * cell_width, y + 0.8 * cell_height]
    };
    let boxes: Vec<_> = (0..OBJECTS).map(corners).collect();
    let bbox = Tensor::from_slice(&boxes.concat()).to_kind(Kind::Float).view([OBJECTS, 4]);
    let mut target = BoxList::new(bbox, (width, height), Mode::Xyxy)?;
    let labels: Vec<i64> = (0..OBJECTS).map(|k| 1 + k % (classes - 1).max(1)).collect();
    target.add_field("labels", Tensor::from_slice(&labels));
    let rectangle = |&[x1, y1, x2, y2]: &[f64; 4]| vec![vec![x1, y1, x2, y1, x2, y2, x1, y2]];
    target.add_field("masks", SegmentationMask::from_polygons(boxes.iter().map(rectangle).collect(), (width, height)));
    // 17 visible points in the middle of each box.
    let point = |&[x1, y1, x2, y2]: &[f64; 4]| [0.5 * (x1 + x2), 0.5 * (y1 + y2), 2.0].repeat(17);
    let points: Vec<f64> = boxes.iter().flat_map(point).collect();
    let points = Tensor::from_slice(&points).to_kind(Kind::Float).view([OBJECTS, 17, 3]);
    target.add_field("keypoints", Keypoints::person(points, (width, height))?);
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_lie_inside_the_image_and_have_known_classes() -> Result<()> {
        let target = target((100, 200), 3)?;
        assert_eq!(target.len(), 8);
        assert_eq!(target.shallow_clone().clip_to_image(true)?.len(), 8);
        let labels = Vec::<i64>::try_from(target.tensor_field("labels")?)?;
        assert_eq!(labels, [1, 2, 1, 2, 1, 2, 1, 2]);
        assert_eq!(target.bbox().kind(), Kind::Float);
        Ok(())
    }
}
