//! From heat maps to the keypoints of detections.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::modeling::batch::Rows;
use crate::structures::{BoxList, Keypoints};

/// The place of each keypoint in the image, and the logit there.
///
/// Each map is resized to its box (bicubic with a = -0.75, as OpenCV does, to whole pixels rounded up) and the highest
/// pixel is taken; its centre is half a pixel further (Heckbert's convention, as in the targets).
///
/// # Shapes
/// `maps` `[R, K, S, S]` logits, `rois` `[R, 4]` xyxy → keypoints `[R, K, 3]` (x, y, 1), scores `[R, K]`.
///
/// # Errors
/// Maps that do not have four dimensions.
pub fn heatmaps_to_keypoints(maps: &Tensor, rois: &Tensor) -> Result<(Tensor, Tensor)> {
    let (number, keypoints, _, _) = maps.size4()?;
    // The sizes of the resized maps are needed on the host.
    let corners = Vec::<f32>::try_from(rois.to_device(Device::Cpu).to_kind(Kind::Float).flatten(0, -1))?;
    let mut x = Vec::with_capacity(number as usize);
    let mut y = Vec::with_capacity(number as usize);
    let mut scores = Vec::with_capacity(number as usize);
    for (i, corner) in corners.chunks_exact(4).enumerate() {
        let (width, height) = ((corner[2] - corner[0]).max(1.0), (corner[3] - corner[1]).max(1.0));
        let (columns, rows) = (width.ceil(), height.ceil());
        let resized = maps.narrow(0, i as i64, 1).upsample_bicubic2d([rows as i64, columns as i64], false, None, None);
        let (score, place) = resized.reshape([keypoints, -1]).max_dim(1, false);
        let column = place.remainder(columns as i64);
        let row = place.divide_scalar_mode(columns as i64, "floor");
        let centre = |cell: Tensor, size: f32, cells: f32, offset: f32| {
            (cell.to_kind(Kind::Double) + 0.5) * f64::from(size / cells) + f64::from(offset)
        };
        x.push(centre(column, width, columns, corner[0]));
        y.push(centre(row, height, rows, corner[1]));
        scores.push(score);
    }
    if scores.is_empty() {
        let options = (Kind::Float, maps.device());
        return Ok((Tensor::zeros([0, keypoints, 3], options), Tensor::zeros([0, keypoints], options)));
    }
    let (x, y) = (Tensor::stack(&x, 0), Tensor::stack(&y, 0));
    let found = Tensor::stack(&[&x, &y, &x.ones_like()], 2).to_kind(Kind::Float);
    Ok((found, Tensor::stack(&scores, 0)))
}

/// The detections with the field `keypoints`, whose own field `logits` holds the scores. (The original takes one image
/// at a time.)
///
/// # Shapes
/// `maps` `[R, K, S, S]` for the detections of all images.
///
/// # Errors
/// As [`heatmaps_to_keypoints`].
pub fn keypoint_detections(maps: &Tensor, boxes: Vec<BoxList>) -> Result<Vec<BoxList>> {
    let maps = Rows::of_boxes(&boxes).split(maps);
    boxes
        .into_iter()
        .zip(maps)
        .map(|(mut boxes, maps)| {
            let (found, scores) = heatmaps_to_keypoints(&maps, boxes.bbox())?;
            let mut keypoints = Keypoints::person(found, boxes.size())?;
            keypoints.add_field("logits", scores);
            boxes.add_field("keypoints", keypoints);
            Ok(boxes)
        })
        .collect()
}
