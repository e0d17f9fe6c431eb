//! Masks of the mask head, pasted into the image at their boxes (the original's `mask_head/inference.py`).

use anyhow::{ensure, Result};
use rayon::prelude::*;
use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use super::bounding_box::{BoxList, Mode};
use super::rle::Rle;

type Corners = [f32; 4];

/// The part of an image that a pasted mask covers: columns `x..x + width`, rows `y..y + height`, and its pixels, column
/// by column.
struct Region<T> {
    x: usize,
    y: usize,
    height: usize,
    columns: Vec<T>,
}

/// For every output position of one axis: the two input positions it lies between, and the weight of the second.
/// Bilinear without aligned corners, as `torch.nn.functional.interpolate`.
fn taps(input: usize, output: i64, range: std::ops::Range<i64>) -> Vec<(usize, usize, f32)> {
    let scale = input as f32 / output as f32;
    let tap = |at: i64| {
        let source = (scale * (at as f32 + 0.5) - 0.5).max(0.0);
        let first = (source as usize).min(input - 1);
        (first, (first + 1).min(input - 1), (source - first as f32).clamp(0.0, 1.0))
    };
    range.map(tap).collect()
}

/// The box scaled around its centre by how much padding enlarges the mask, in whole pixels (truncated toward zero).
fn expanded_box(r#box: [f32; 4], scale: f32) -> [i64; 4] {
    let [x1, y1, x2, y2] = r#box;
    let (half_width, half_height) = ((x2 - x1) * 0.5 * scale, (y2 - y1) * 0.5 * scale);
    let (x, y) = ((x2 + x1) * 0.5, (y2 + y1) * 0.5);
    [x - half_width, y - half_height, x + half_width, y + half_height].map(|c| i64::from(c as i32))
}

/// The pixels of the image that are set, for one mask.
fn mask_region(
    mask: &[f32],
    side: usize,
    r#box: [f32; 4],
    image_hw: (i64, i64),
    threshold: f64,
    padding: i64,
) -> Result<Region<bool>> {
    ensure!(padding > 0, "pasting needs a padding of at least 1, not {padding}");
    let [_, _, x2, y2] = expanded_box(r#box, padding_scale(side, padding));
    ensure!(x2 >= -1 && y2 >= -1, "box {:?} lies outside the image, on its left or above it", r#box);
    let limit = threshold as f32;
    Ok(if threshold >= 0.0 {
        region(mask, side, r#box, image_hw, padding, |v| v > limit)
    } else {
        region(mask, side, r#box, image_hw, padding, |v| v * 255.0 != 0.0)
    })
}

/// How much padding enlarges a mask.
fn padding_scale(side: usize, padding: i64) -> f32 {
    ((side as i64 + 2 * padding) as f64 / side as f64) as f32
}

/// The mask padded with zeros and stretched over the enlarged box; `pixel` makes a pixel of a probability.
fn region<T>(
    mask: &[f32],
    side: usize,
    r#box: [f32; 4],
    image_hw: (i64, i64),
    padding: i64,
    pixel: impl Fn(f32) -> T,
) -> Region<T> {
    let [x1, y1, x2, y2] = expanded_box(r#box, padding_scale(side, padding));
    let padding = padding as usize;
    let padded = side + 2 * padding;
    let (width, height) = ((x2 - x1 + 1).max(1), (y2 - y1 + 1).max(1));
    let (left, right) = (x1.max(0), (x2 + 1).min(image_hw.1));
    let (top, bottom) = (y1.max(0), (y2 + 1).min(image_hw.0));
    if right <= left || bottom <= top {
        return Region { x: 0, y: 0, height: 0, columns: Vec::new() };
    }

    // Down the columns of the padded mask first, so that a column of the image is then one pass over two of these.
    let rows = taps(padded, height, top - y1..bottom - y1);
    let at = |x: usize, y: usize| match (x.checked_sub(padding), y.checked_sub(padding)) {
        (Some(x), Some(y)) if x < side && y < side => mask[y * side + x],
        _ => 0.0,
    };
    let stretched: Vec<f32> = (0..padded)
        .flat_map(|x| rows.iter().map(move |&(a, b, weight)| at(x, a) * (1.0 - weight) + at(x, b) * weight))
        .collect();
    let height = rows.len();
    let mut columns = Vec::with_capacity((right - left) as usize * height);
    for (a, b, weight) in taps(padded, width, left - x1..right - x1) {
        let (first, second) = (&stretched[a * height..][..height], &stretched[b * height..][..height]);
        columns.extend(first.iter().zip(second).map(|(&v, &w)| pixel(v * (1.0 - weight) + w * weight)));
    }
    Region { x: left as usize, y: top as usize, height, columns }
}

impl<T: Element> Region<T> {
    /// The whole image, zero outside of the region.
    fn paste(&self, image_hw: (i64, i64)) -> Tensor {
        let image = Tensor::zeros([image_hw.0, image_hw.1], (T::KIND, Device::Cpu));
        if !self.columns.is_empty() {
            let (height, width) = (self.height as i64, (self.columns.len() / self.height) as i64);
            let part = Tensor::from_slice(&self.columns).view([width, height]).transpose(0, 1);
            image.narrow(0, self.y as i64, height).narrow(1, self.x as i64, width).copy_(&part);
        }
        image
    }
}

/// The mask of the whole image for one detection.
///
/// The mask is padded with zeros, goes bilinearly into the box enlarged by as much, and is set where its value exceeds
/// `threshold`; a negative threshold sets every value that is not 0.
///
/// # Shapes
/// `mask`: `[M, M]` probabilities; `box`: corners in the image; returns `[height, width]`, bool, on the CPU.
///
/// # Errors
/// If `padding` is not positive, or the box lies wholly on the left of the image or above it. (On its right or below,
/// the mask is empty; the original makes the same difference.)
pub fn paste_mask_in_image(
    mask: &Tensor,
    r#box: [f32; 4],
    image_hw: (i64, i64),
    threshold: f64,
    padding: i64,
) -> Result<Tensor> {
    let (values, side) = square(mask)?;
    Ok(mask_region(&values, side, r#box, image_hw, threshold, padding)?.paste(image_hw))
}

/// The probabilities of one detection in the whole image, 255 being certain: what the original's `Masker` gives for a
/// negative threshold in the Res2Net fork (upstream turns every value into 0 or 1, which leaves heat maps blank).
///
/// # Shapes
/// `mask`: `[M, M]`; `box`: corners in the image; returns `[height, width]`, uint8, on the CPU.
///
/// # Errors
/// If the mask is not square.
pub fn paste_probabilities(mask: &Tensor, r#box: [f32; 4], image_hw: (i64, i64)) -> Result<Tensor> {
    let (values, side) = square(mask)?;
    Ok(region(&values, side, r#box, image_hw, 1, |v| (v * 255.0) as u8).paste(image_hw))
}

fn square(mask: &Tensor) -> Result<(Vec<f32>, usize)> {
    let shape = mask.size();
    ensure!(shape.len() == 2 && shape[0] == shape[1] && shape[0] > 0, "a mask to paste is [M, M], not {shape:?}");
    let mask = mask.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    Ok((Vec::<f32>::try_from(mask.view(-1))?, shape[0] as usize))
}

/// Run lengths of an image in which only the region can be set.
fn encode_region(region: &Region<bool>, image_hw: (i64, i64)) -> Rle {
    let (h, w) = (image_hw.0 as usize, image_hw.1 as usize);
    let mut counts: Vec<u32> = Vec::new();
    let mut end_of_last = 0; // position after the last set pixel
    let columns = if region.height > 0 { region.columns.chunks(region.height) } else { [].chunks(1) };
    for (i, column) in columns.enumerate() {
        let start_of_column = (region.x + i) * h + region.y;
        let mut y = 0;
        while let Some(offset) = column[y..].iter().position(|&set| set) {
            let start = y + offset;
            let end = column[start..].iter().position(|&set| !set).map_or(column.len(), |n| start + n);
            let length = (end - start) as u32;
            let gap = start_of_column + start - end_of_last;
            match counts.last_mut() {
                Some(last) if gap == 0 => *last += length,
                _ => counts.extend([gap as u32, length]),
            }
            end_of_last = start_of_column + end;
            y = end;
        }
    }
    if end_of_last < h * w || counts.is_empty() {
        counts.push((h * w - end_of_last) as u32);
    }
    Rle { h: h as u32, w: w as u32, counts }
}

/// Projects the masks of detections into their images (the original's `Masker`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masker {
    /// Pixels above it are set; see [`paste_mask_in_image`].
    pub threshold: f64,
    /// Zeros around the mask before it is resized, in pixels of the mask.
    pub padding: i64,
}

impl Default for Masker {
    fn default() -> Self {
        Masker { threshold: 0.5, padding: 1 }
    }
}

impl Masker {
    /// A masker with this threshold and padding.
    pub fn new(threshold: f64, padding: i64) -> Masker {
        Masker { threshold, padding }
    }

    /// The masks of the whole image.
    ///
    /// # Shapes
    /// `masks`: `[N, 1, M, M]`; `boxes`: N boxes, whose size is the image's; returns `[N, 1, height, width]`, bool, on
    /// the CPU; without boxes `[0, 1, M, M]` of the masks' kind (as in the original).
    ///
    /// # Errors
    /// If there are not as many masks as boxes; see also [`paste_mask_in_image`].
    pub fn forward_single_image(&self, masks: &Tensor, boxes: &BoxList) -> Result<Tensor> {
        let (corners, image_hw) = self.checked(masks, boxes)?;
        if corners.is_empty() {
            let shape = masks.size();
            return Ok(masks.new_zeros([0, 1, shape[2], shape[3]], (masks.kind(), masks.device())));
        }
        let masks = masks.to_device(Device::Cpu);
        let paste = |(i, &corners): (usize, &[f32; 4])| {
            paste_mask_in_image(&masks.get(i as i64).get(0), corners, image_hw, self.threshold, self.padding)
        };
        let pasted: Result<Vec<Tensor>> = corners.iter().enumerate().map(paste).collect();
        Ok(Tensor::stack(&pasted?, 0).unsqueeze(1))
    }

    /// The masks of the whole image as run lengths, without making an image of each; in parallel.
    ///
    /// # Shapes
    /// `masks`: `[N, 1, M, M]`; `boxes`: N boxes, whose size is the image's.
    ///
    /// # Errors
    /// See [`forward_single_image`](Self::forward_single_image).
    pub fn encode(&self, masks: &Tensor, boxes: &BoxList) -> Result<Vec<Rle>> {
        let (corners, image_hw) = self.checked(masks, boxes)?;
        let side = masks.size()[3] as usize;
        let values = masks.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        let values = Vec::<f32>::try_from(values.view(-1))?;
        let encode = |(i, &corners): (usize, &[f32; 4])| {
            let mask = &values[i * side * side..][..side * side];
            let region = mask_region(mask, side, corners, image_hw, self.threshold, self.padding)?;
            Ok(encode_region(&region, image_hw))
        };
        corners.par_iter().enumerate().map(encode).collect()
    }

    /// Corners of every box, and height and width of the image.
    fn checked(&self, masks: &Tensor, boxes: &BoxList) -> Result<(Vec<Corners>, (i64, i64))> {
        let shape = masks.size();
        let fits = shape.len() == 4 && shape[0] as usize == boxes.len() && shape[1] == 1 && shape[2] == shape[3];
        ensure!(fits, "masks to paste are [{}, 1, M, M], one for each box of {boxes}, not {shape:?}", boxes.len());
        let corners = boxes.convert(Mode::Xyxy).bbox().to_device(Device::Cpu).contiguous();
        let corners = Vec::<f32>::try_from(corners.view(-1))?;
        let (width, height) = boxes.size();
        Ok((corners.chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]).collect(), (height, width)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structures::rle;

    #[test]
    fn run_lengths_equal_those_of_the_pasted_image() {
        let masks = Tensor::linspace(0.0, 1.0, 3 * 7 * 7, (Kind::Float, Device::Cpu)).view([3, 1, 7, 7]);
        let corners = [[-3.5f32, -2.0, 30.0, 40.0], [5.0, 6.0, 9.5, 8.25], [0.0, 0.0, 19.0, 14.0]];
        let bbox = Tensor::from_slice(&corners.concat()).view([3, 4]);
        let boxes = BoxList::new(bbox, (20, 15), Mode::Xyxy).unwrap();
        for threshold in [-1.0, 0.0, 0.3, 0.5, 2.0] {
            let masker = Masker::new(threshold, 1);
            let images = masker.forward_single_image(&masks, &boxes).unwrap();
            let expected: Vec<Rle> = (0..3).map(|i| rle::encode(&images.get(i).get(0)).unwrap()).collect();
            assert_eq!(masker.encode(&masks, &boxes).unwrap(), expected, "threshold {threshold}");
        }
    }

    #[test]
    fn probabilities_are_pasted_at_the_box() {
        let mask = Tensor::full([28, 28], 0.8, (Kind::Float, Device::Cpu));
        let pasted = paste_probabilities(&mask, [10.0, 20.0, 49.0, 39.0], (60, 70)).unwrap();
        assert_eq!((pasted.size(), pasted.kind()), (vec![60, 70], Kind::Uint8));
        assert!((203..=204).contains(&pasted.int64_value(&[30, 30])));
        assert_eq!((pasted.int64_value(&[10, 30]), pasted.int64_value(&[30, 60])), (0, 0));
        let outside = paste_probabilities(&mask, [-50.0, 0.0, -20.0, 30.0], (60, 70)).unwrap();
        assert_eq!(outside.max().int64_value(&[]), 0);
        assert!(paste_probabilities(&mask.narrow(0, 0, 3), [0.0; 4], (60, 70)).is_err());
    }

    #[test]
    fn a_mask_of_ones_fills_its_box_and_at_most_a_pixel_more() {
        let mask = Tensor::ones([28, 28], (Kind::Float, Device::Cpu));
        let image = paste_mask_in_image(&mask, [4.0, 3.0, 13.0, 9.0], (20, 30), 0.5, 1).unwrap();
        let [x, y, width, height] = rle::to_bbox(&rle::encode(&image).unwrap());
        assert!((3.0..=4.0).contains(&x) && (2.0..=3.0).contains(&y), "{x} {y}");
        assert!((13.0..=14.0).contains(&(x + width - 1.0)) && (9.0..=10.0).contains(&(y + height - 1.0)));
        assert_eq!(image.sum(Kind::Int64).int64_value(&[]) as f64, width * height);
    }

    #[test]
    fn boxes_outside_and_bad_input_do_not_panic() {
        let mask = Tensor::ones([4, 4], (Kind::Float, Device::Cpu));
        let paste = |r#box, padding| paste_mask_in_image(&mask, r#box, (20, 30), 0.5, padding);
        assert_eq!(paste([100.0, 3.0, 120.0, 9.0], 1).unwrap().sum(Kind::Int64).int64_value(&[]), 0);
        assert!(paste([-100.0, 3.0, -80.0, 9.0], 1).is_err());
        assert!(paste([1.0, 3.0, 8.0, 9.0], 0).is_err());
        assert!(paste([f32::NAN, 3.0, f32::INFINITY, 9.0], 1).is_ok());
        assert!(
            paste_mask_in_image(&Tensor::ones([2, 3], (Kind::Float, Device::Cpu)), [0.0; 4], (4, 4), 0.5, 1).is_err()
        );
    }
}
