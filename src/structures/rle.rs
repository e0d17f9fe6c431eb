//! Run-length encoded masks, exact to pycocotools' `mask` module; the algorithms are those of the `hotcoco` crate.
//!
//! An [`Rle`] counts the pixels of alternating runs of zeros and ones down the columns, starting with zeros.

use anyhow::{ensure, Context, Result};
use hotcoco::mask;
use tch::{Kind, Tensor};

pub use hotcoco::types::Rle;

fn side(pixels: i64) -> Result<u32> {
    u32::try_from(pixels).with_context(|| format!("{pixels} is no side of a mask"))
}

/// Encodes a mask; every value but 0 is foreground.
///
/// # Shapes
/// `mask`: `[H, W]`, any kind.
///
/// # Errors
/// If the tensor has another shape or more pixels than 32 bits count.
pub fn encode(mask: &Tensor) -> Result<Rle> {
    let (height, width) = mask.size2().with_context(|| format!("a mask is [H, W], not {:?}", mask.size()))?;
    let mask = if mask.kind() == Kind::Uint8 { mask.shallow_clone() } else { mask.ne(0.0).to_kind(Kind::Uint8) };
    let columns = Vec::<u8>::try_from(mask.transpose(0, 1).contiguous().view(-1))?;
    Ok(mask::encode(&columns, side(height)?, side(width)?)?)
}

/// The mask as a tensor `[H, W]` of 0 and 1, uint8. Runs that stop early leave zeros.
pub fn decode(rle: &Rle) -> Tensor {
    let rows = decode_rows(rle);
    Tensor::from_slice(&rows).view([i64::from(rle.h), i64::from(rle.w)])
}

/// The mask as bytes, row by row.
pub fn decode_rows(rle: &Rle) -> Vec<u8> {
    let mut rows = vec![0; rle.h as usize * rle.w as usize];
    set_rows(rle, &mut rows);
    rows
}

/// Sets the pixels of the mask to 1 among the bytes of an image of its size, row by row.
pub(super) fn set_rows(rle: &Rle, rows: &mut [u8]) {
    let (height, width) = (rle.h as usize, rle.w as usize);
    if rows.is_empty() {
        return;
    }
    let mut start = 0usize;
    for (i, &count) in rle.counts.iter().enumerate() {
        let end = start.saturating_add(count as usize).min(height * width);
        if i % 2 == 1 {
            let (mut x, mut y) = (start / height, start % height);
            for _ in start..end {
                rows[y * width + x] = 1;
                y += 1;
                if y == height {
                    (x, y) = (x + 1, 0);
                }
            }
        }
        start = end;
    }
}

/// The number of foreground pixels.
pub fn area(rle: &Rle) -> u64 {
    mask::area(rle)
}

/// The box `[x, y, width, height]` around the foreground; all zero if there is none.
pub fn to_bbox(rle: &Rle) -> [f64; 4] {
    mask::to_bbox(rle)
}

/// The union of masks, or with `intersect` their intersection.
///
/// # Errors
/// If the masks differ in size.
pub fn merge(rles: &[Rle], intersect: bool) -> Result<Rle> {
    Ok(mask::merge(rles, intersect)?)
}

/// Intersection over union of every detection with every ground truth; where the ground truth is a crowd, the
/// intersection over the area of the detection.
///
/// # Errors
/// If there are not as many flags as ground truths.
pub fn iou(detections: &[Rle], ground_truths: &[Rle], is_crowd: &[bool]) -> Result<Vec<Vec<f64>>> {
    ensure!(ground_truths.len() == is_crowd.len(), "{} crowd flags for {} masks", is_crowd.len(), ground_truths.len());
    Ok(mask::iou(detections, ground_truths, is_crowd))
}

/// [`iou`] of boxes `[x, y, width, height]`.
///
/// # Errors
/// If there are not as many flags as ground truths.
pub fn box_iou(detections: &[[f64; 4]], ground_truths: &[[f64; 4]], is_crowd: &[bool]) -> Result<Vec<Vec<f64>>> {
    ensure!(ground_truths.len() == is_crowd.len(), "{} crowd flags for {} boxes", is_crowd.len(), ground_truths.len());
    Ok(mask::bbox_iou(detections, ground_truths, is_crowd))
}

/// The inside of one polygon `x0, y0, x1, y1, ..`, by maskApi's rule (corners at five times the resolution, rounded).
/// Fewer than three corners give an empty mask.
///
/// # Errors
/// If the image has more pixels than 32 bits count.
pub fn from_polygon(polygon: &[f64], size_hw: (i64, i64)) -> Result<Rle> {
    Ok(mask::fr_poly(polygon, side(size_hw.0)?, side(size_hw.1)?)?)
}

/// The union of several polygons of one instance.
///
/// # Errors
/// If the image has more pixels than 32 bits count.
pub fn from_polygons(polygons: &[Vec<f64>], size_hw: (i64, i64)) -> Result<Rle> {
    Ok(mask::fr_polys(polygons, side(size_hw.0)?, side(size_hw.1)?)?)
}

/// A box `[x, y, width, height]`, filled as the polygon of its corners.
///
/// # Errors
/// If the image has more pixels than 32 bits count.
pub fn from_bbox(bbox: &[f64; 4], size_hw: (i64, i64)) -> Result<Rle> {
    Ok(mask::fr_bbox(bbox, side(size_hw.0)?, side(size_hw.1)?)?)
}

/// The `counts` string of COCO's files.
pub fn to_string(rle: &Rle) -> String {
    mask::rle_to_string(rle)
}

/// Reads a `counts` string of COCO's files.
///
/// # Errors
/// If the string is damaged or its runs exceed the image.
pub fn from_string(counts: &str, size_hw: (i64, i64)) -> Result<Rle> {
    Ok(mask::rle_from_string(counts, side(size_hw.0)?, side(size_hw.1)?)?)
}

/// Run counts as COCO's files have them for crowds.
///
/// # Errors
/// If the runs exceed the image.
pub fn from_counts(counts: Vec<u32>, size_hw: (i64, i64)) -> Result<Rle> {
    let (h, w) = (side(size_hw.0)?, side(size_hw.1)?);
    mask::check_counts(&counts, h, w)?;
    Ok(Rle { h, w, counts })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn encoding_and_spelling_lose_nothing(height in 1i64..20, width in 1i64..20, seed: u64) {
            let bit = |i: i64| u8::from((seed.rotate_left(i as u32 % 64) ^ seed.wrapping_mul(i as u64)) & 1 == 1);
            let bytes: Vec<u8> = (0..height * width).map(bit).collect();
            let mask = Tensor::from_slice(&bytes).view([height, width]);
            let rle = encode(&mask).unwrap();
            prop_assert_eq!(decode_rows(&rle), bytes.clone());
            prop_assert_eq!(area(&rle), bytes.iter().map(|&b| u64::from(b)).sum::<u64>());
            prop_assert_eq!(from_string(&to_string(&rle), (height, width)).unwrap(), rle);
        }

        #[test]
        fn any_polygon_has_a_mask(points in proptest::collection::vec(-1e12f64..1e12, 0..20)) {
            let rle = from_polygon(&points, (17, 23)).unwrap();
            prop_assert_eq!(rle.counts.iter().sum::<u32>(), 17 * 23);
        }
    }

    #[test]
    fn a_mask_without_pixels_has_none_whatever_its_runs() {
        assert!(decode_rows(&Rle { h: 0, w: 3, counts: vec![0, 2] }).is_empty());
    }

    #[test]
    fn damaged_run_lengths_are_errors() {
        assert!(from_string("zzzz~~~", (4, 4)).is_err());
        assert!(from_counts(vec![3, 20], (4, 4)).is_err());
        assert!(from_polygon(&[], (-1, 4)).is_err());
        assert!(from_polygon(&[f64::NAN, 1.0, f64::INFINITY, 2.0, 3.0, 3.0], (4, 4)).is_ok());
    }
}
