//! Which predictions overlap which objects, and by how many pixels.

use anyhow::{ensure, Context, Result};
use rayon::prelude::*;
use tch::Kind;

use crate::data::datasets::Dataset;
use crate::structures::rle::{self, Rle};
use crate::structures::{BoxList, Masker, Mode};

/// An object or a prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Its position in the list of the image.
    pub id: usize,
    /// Its class.
    pub label: usize,
    /// Corners cut to whole pixels.
    pub corners: [i64; 4],
    /// Width times height, without the last column and row.
    pub box_area: i64,
    /// Pixels of the mask within the box, without its last column and row; 0 without a mask.
    pub pixel_count: i64,
    /// Of a prediction.
    pub confidence: f64,
}

/// An object and a prediction whose boxes overlap, whatever their classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pairing {
    /// Position among the objects of the image.
    pub ground_truth: usize,
    /// Position among the predictions of the image.
    pub prediction: usize,
    /// Pixels that both boxes have.
    pub box_intersection: i64,
    /// Pixels that both masks have, without the last column and row of the box around both.
    pub mask_intersection: i64,
}

/// The instances of one image and how they overlap.
#[derive(Clone, Debug, Default)]
pub struct ImageMatches {
    /// The objects.
    pub ground_truths: Vec<Instance>,
    /// The predictions. One whose mask is empty is left out.
    pub predictions: Vec<Instance>,
    /// Objects in order, and for each its predictions in order.
    pub pairings: Vec<Pairing>,
}

/// A mask cut to the box around its pixels.
struct CroppedMask {
    x: i64,
    y: i64,
    width: i64,
    height: i64,
    rows: Vec<bool>,
}

impl CroppedMask {
    fn new(rle: &Rle) -> CroppedMask {
        let [x, y, width, height] = rle::to_bbox(rle).map(|side| side as i64);
        let mut rows = vec![false; (width * height) as usize];
        let full_height = i64::from(rle.h);
        let mut position = 0;
        for (i, &count) in rle.counts.iter().enumerate() {
            if i % 2 == 1 {
                for pixel in position..position + i64::from(count) {
                    let (column, row) = (pixel / full_height - x, pixel % full_height - y);
                    rows[(row * width + column) as usize] = true;
                }
            }
            position += i64::from(count);
        }
        CroppedMask { x, y, width, height, rows }
    }

    fn row(&self, y: i64, columns: std::ops::Range<i64>) -> &[bool] {
        if columns.is_empty() {
            return &[];
        }
        let start = (y - self.y) * self.width - self.x;
        &self.rows[(start + columns.start) as usize..(start + columns.end) as usize]
    }

    /// The columns and rows of a box (far ends excluded) that lie within this mask's extent.
    fn within(&self, [x1, y1, x2, y2]: [i64; 4]) -> [i64; 4] {
        let (left, top) = (x1.max(self.x), y1.max(self.y));
        [left, top, x2.min(self.x + self.width).max(left), y2.min(self.y + self.height).max(top)]
    }

    fn count(&self, corners: [i64; 4]) -> i64 {
        let [x1, y1, x2, y2] = self.within(corners);
        (y1..y2).map(|y| self.row(y, x1..x2).iter().filter(|&&set| set).count() as i64).sum()
    }

    fn intersection(&self, other: &CroppedMask, corners: [i64; 4]) -> i64 {
        let [x1, y1, x2, y2] = other.within(self.within(corners));
        let both = |y: i64| self.row(y, x1..x2).iter().zip(other.row(y, x1..x2)).filter(|(&a, &b)| a && b).count();
        (y1..y2).map(|y| both(y) as i64).sum()
    }
}

/// Matches the predictions of every image with its objects.
///
/// # Errors
/// If there are not as many predictions as images, a prediction lacks a field, or a ground truth cannot be read.
pub fn match_gts_with_preds(dataset: &dyn Dataset, predictions: &[BoxList]) -> Result<Vec<ImageMatches>> {
    ensure!(
        dataset.len() == predictions.len(),
        "{} predictions for the {} images of {}",
        predictions.len(),
        dataset.len(),
        dataset.describe()
    );
    let one = |(index, prediction): (usize, &BoxList)| {
        let info = dataset.image_info(index)?;
        let size = (info.width, info.height);
        let matched = || {
            let truth = dataset.ground_truth(index)?;
            let truth = if truth.size() == size { truth } else { truth.resize(size)? };
            match_image(&truth, &prediction.resize(size)?, dataset.class_names().len())
        };
        matched().with_context(|| format!("image {} of {}", info.id, dataset.describe()))
    };
    predictions.iter().enumerate().map(one).collect()
}

fn match_image(truth: &BoxList, prediction: &BoxList, classes: usize) -> Result<ImageMatches> {
    let (truth_masks, prediction_masks) = (ground_truth_masks(truth)?, predicted_masks(prediction)?);
    let ground_truths = instances(truth, &truth_masks, classes, false)?;
    let predictions = instances(prediction, &prediction_masks, classes, true)?;

    let mut pairings = Vec::new();
    for (g, gt) in ground_truths.iter().enumerate() {
        for (p, pred) in predictions.iter().enumerate() {
            let (a, b) = (gt.corners, pred.corners);
            let inner = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
            if inner[0] >= inner[2] || inner[1] >= inner[3] {
                continue;
            }
            let outer = [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])];
            let mask_intersection = match (&truth_masks, &prediction_masks) {
                (Some(truth), Some(predicted)) => truth[gt.id].intersection(&predicted[pred.id], outer),
                _ => 0,
            };
            let box_intersection = (inner[2] - inner[0]) * (inner[3] - inner[1]);
            pairings.push(Pairing { ground_truth: g, prediction: p, box_intersection, mask_intersection });
        }
    }
    Ok(ImageMatches { ground_truths, predictions, pairings })
}

fn ground_truth_masks(truth: &BoxList) -> Result<Option<Vec<CroppedMask>>> {
    if !truth.has_field("masks") || truth.is_empty() {
        return Ok(None);
    }
    let encoded = truth.masks()?.encode()?;
    ensure!(encoded.len() == truth.len(), "{} masks for {truth}", encoded.len());
    Ok(Some(encoded.par_iter().map(CroppedMask::new).collect()))
}

fn predicted_masks(prediction: &BoxList) -> Result<Option<Vec<CroppedMask>>> {
    if !prediction.has_field("mask") || prediction.is_empty() {
        return Ok(None);
    }
    let encoded = Masker::new(0.5, 1).encode(prediction.tensor_field("mask")?, prediction)?;
    Ok(Some(encoded.par_iter().map(CroppedMask::new).collect()))
}

fn instances(
    list: &BoxList,
    masks: &Option<Vec<CroppedMask>>,
    classes: usize,
    predicted: bool,
) -> Result<Vec<Instance>> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let corners = list.convert(Mode::Xyxy).bbox().to_kind(Kind::Int64).contiguous();
    let corners = Vec::<i64>::try_from(corners.view(-1))?;
    let labels = Vec::<i64>::try_from(list.tensor_field("labels")?.to_kind(Kind::Int64))?;
    let scores = match predicted {
        true => Vec::<f32>::try_from(list.tensor_field("scores")?)?,
        false => vec![0.0; list.len()],
    };
    let mut instances = Vec::with_capacity(list.len());
    for (id, c) in corners.chunks_exact(4).enumerate() {
        let label = usize::try_from(labels[id]).ok().filter(|&label| label < classes);
        let label = label.with_context(|| format!("label {} is none of the {classes} classes", labels[id]))?;
        let corners = [c[0], c[1], c[2], c[3]];
        let pixel_count = masks.as_ref().map_or(0, |masks| masks[id].count(corners));
        if predicted && masks.is_some() && pixel_count == 0 {
            continue;
        }
        let box_area = (c[2] - c[0]) * (c[3] - c[1]);
        instances.push(Instance { id, label, corners, box_area, pixel_count, confidence: scores[id].into() });
    }
    Ok(instances)
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;

    #[test]
    fn boxes_without_masks_match_by_their_area_alone() {
        let list = |corners: &[f32]| {
            let mut list = BoxList::new(Tensor::from_slice(corners).view([-1, 4]), (40, 30), Mode::Xyxy).unwrap();
            let number = list.len() as i64;
            list.add_field("labels", Tensor::ones([number], (Kind::Int64, tch::Device::Cpu)));
            list.add_field("scores", Tensor::ones([number], (Kind::Float, tch::Device::Cpu)));
            list
        };
        let truth = list(&[2.5, 3.0, 12.9, 13.0]);
        let image = match_image(&truth, &list(&[7.0, 8.0, 20.0, 20.0, 30.0, 20.0, 35.0, 25.0]), 2).unwrap();
        assert_eq!(image.ground_truths[0].box_area, 100);
        let expected = Pairing { ground_truth: 0, prediction: 0, box_intersection: 25, mask_intersection: 0 };
        assert_eq!((image.predictions.len(), image.pairings), (2, vec![expected]));
        assert!(match_image(&truth, &truth, 1).unwrap_err().to_string().contains("label 1"));
    }

    #[test]
    fn cropped_masks_count_like_whole_ones() {
        let whole = |corners: [i64; 4]| {
            let mask = Tensor::zeros([12, 20], (Kind::Uint8, tch::Device::Cpu));
            let [x1, y1, x2, y2] = corners;
            let _ = mask.narrow(1, x1, x2 - x1).narrow(0, y1, y2 - y1).fill_(1);
            mask
        };
        let (a, b) = (whole([2, 3, 10, 9]), whole([6, 1, 18, 7]));
        let crop = |mask: &Tensor| CroppedMask::new(&rle::encode(mask).unwrap());
        assert_eq!(crop(&a).count([0, 0, 20, 12]), 48);
        assert_eq!(crop(&a).count([4, 4, 6, 30]), 10);
        assert_eq!(crop(&a).count([12, 0, 20, 12]), 0);
        assert_eq!(crop(&a).intersection(&crop(&b), [0, 0, 20, 12]), 16);
        assert_eq!(crop(&a).intersection(&crop(&b), [0, 0, 9, 6]), 9);
        let empty = Tensor::zeros([12, 20], (Kind::Uint8, tch::Device::Cpu));
        assert_eq!(crop(&a).intersection(&crop(&empty), [0, 0, 20, 12]), 0);
    }
}
