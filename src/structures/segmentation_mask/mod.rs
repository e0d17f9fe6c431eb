//! Masks of the instances of one image, as polygons or as pixels (the original's `structures/segmentation_mask.py`).

mod binary;
mod polygons;

use std::fmt;
use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::bounding_box::Flip;
use super::field::select_rows;
use super::rle::{self, Rle};
pub use polygons::PolygonInstance;

/// How the masks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskMode {
    /// Polygons; exact under every transformation.
    Poly,
    /// Pixels.
    Mask,
}

/// By what a crop of polygons shifts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolygonCrop {
    /// By the corner of the box moved into the image; the resulting size is that of the box as given.
    #[default]
    Clamped,
    /// By the corner as given, and the resulting size is at least one pixel: the Res2Net fork's rule for mask targets.
    /// The mask head follows upstream's; this one is for who compares with the fork.
    Unclamped,
}

enum Instances {
    Polygons(Vec<Arc<PolygonInstance>>),
    /// `[N, H, W]`, uint8, bool or float.
    Binary(Tensor),
}

/// Crops of polygons that a thread takes at least: one costs about 11 µs (28×28 pixels, an outline of 40 points; `cargo
/// bench --bench ops -- "mask targets"`), waking a thread several times that.
const CROPS_PER_THREAD: usize = 32;

/// The masks of the instances of one image.
///
/// Polygons with fewer than three points are dropped, and instances without polygons too, so there can be fewer
/// masks than boxes.
pub struct SegmentationMask {
    instances: Instances,
    size: (f64, f64),
}

impl SegmentationMask {
    /// Masks given as polygons: instances, their polygons, and `x0, y0, x1, y1, ..` (kept as float32) of each.
    /// `size` is `(width, height)` of the image.
    pub fn from_polygons(instances: Vec<Vec<Vec<f64>>>, size: (i64, i64)) -> SegmentationMask {
        let instances = instances.into_iter().map(PolygonInstance::new);
        let instances = instances.filter(|i| !i.is_empty()).map(Arc::new).collect();
        SegmentationMask { instances: Instances::Polygons(instances), size: (size.0 as f64, size.1 as f64) }
    }

    /// Masks given as pixels.
    ///
    /// # Shapes
    /// `masks`: `[N, H, W]`, or `[H, W]` for one; uint8, bool or float; `size` is `(W, H)`.
    ///
    /// # Errors
    /// If the tensor does not have that size.
    pub fn from_binary(masks: Tensor, size: (i64, i64)) -> Result<SegmentationMask> {
        let masks = if masks.dim() == 2 { masks.unsqueeze(0) } else { masks };
        let shape = masks.size();
        ensure!(
            shape.len() == 3 && shape[1] == size.1 && shape[2] == size.0,
            "binary masks of an image of {} x {} (width x height) are [N, {}, {}], not {shape:?}",
            size.0,
            size.1,
            size.1,
            size.0
        );
        Ok(Self::binary(masks))
    }

    /// Masks given as run lengths, decoded to pixels (uint8). Where `size` differs from theirs they are resized
    /// bilinearly and cut to whole numbers, so that only pixels of full weight stay.
    ///
    /// # Errors
    /// If the masks differ in size.
    pub fn from_rle(rles: &[Rle], size: (i64, i64)) -> Result<SegmentationMask> {
        let Some(first) = rles.first() else {
            return Ok(Self::binary(Tensor::zeros([0, size.1, size.0], (Kind::Uint8, tch::Device::Cpu))));
        };
        if let Some(other) = rles.iter().find(|r| (r.h, r.w) != (first.h, first.w)) {
            anyhow::bail!(
                "masks of one image must have one size, got {}x{} and {}x{}",
                first.w,
                first.h,
                other.w,
                other.h
            );
        }
        let masks: Vec<Tensor> = rles.iter().map(rle::decode).collect();
        let masks = Tensor::stack(&masks, 0);
        if (i64::from(first.w), i64::from(first.h)) == size {
            return Ok(Self::binary(masks));
        }
        ensure!(size.0 > 0 && size.1 > 0, "no masks of {} x {} pixels", size.0, size.1);
        Ok(Self::binary(binary::resize(&masks, size)))
    }

    fn binary(masks: Tensor) -> SegmentationMask {
        let shape = masks.size();
        SegmentationMask { instances: Instances::Binary(masks), size: (shape[2] as f64, shape[1] as f64) }
    }

    fn polygons(instances: Vec<Arc<PolygonInstance>>, size: (f64, f64)) -> SegmentationMask {
        SegmentationMask { instances: Instances::Polygons(instances), size }
    }

    /// How the masks are kept.
    pub fn mode(&self) -> MaskMode {
        match self.instances {
            Instances::Polygons(_) => MaskMode::Poly,
            Instances::Binary(_) => MaskMode::Mask,
        }
    }

    /// `(width, height)` in whole pixels.
    pub fn size(&self) -> (i64, i64) {
        (self.size.0 as i64, self.size.1 as i64)
    }

    /// `(width, height)`; fractional after a crop of polygons with a fractional box.
    pub fn exact_size(&self) -> (f64, f64) {
        self.size
    }

    /// The number of instances.
    pub fn len(&self) -> usize {
        match &self.instances {
            Instances::Polygons(instances) => instances.len(),
            Instances::Binary(masks) => masks.size()[0] as usize,
        }
    }

    /// Whether there is no instance.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The instances, if they are polygons.
    pub fn polygon_instances(&self) -> Option<&[Arc<PolygonInstance>]> {
        match &self.instances {
            Instances::Polygons(instances) => Some(instances),
            Instances::Binary(_) => None,
        }
    }

    /// Another handle on the same masks.
    pub fn shallow_clone(&self) -> SegmentationMask {
        let instances = match &self.instances {
            Instances::Polygons(instances) => Instances::Polygons(instances.clone()),
            Instances::Binary(masks) => Instances::Binary(masks.shallow_clone()),
        };
        SegmentationMask { instances, size: self.size }
    }

    /// The masks in the mirrored image; a coordinate of a polygon becomes `side - coordinate - 1` in both directions.
    pub fn transpose(&self, flip: Flip) -> SegmentationMask {
        match &self.instances {
            Instances::Polygons(instances) => {
                let (axis, side) = match flip {
                    Flip::LeftRight => (0, self.size.0),
                    Flip::TopBottom => (1, self.size.1),
                };
                let flipped = instances.iter().map(|i| Arc::new(i.mirrored(axis, side))).collect();
                Self::polygons(flipped, self.size)
            }
            Instances::Binary(masks) => {
                let dim = if flip == Flip::TopBottom { 1 } else { 2 };
                Self::binary(masks.flip([dim]))
            }
        }
    }

    /// The masks in the part `[x1, y1, x2, y2]` of the image.
    ///
    /// Polygons are shifted by the corner moved into the image but not clipped, and the size becomes
    /// `(x2 - x1, y2 - y1)` as given, which may be fractional or zero. Pixels are cut out between the rounded corners
    /// (half to even), moved into the image, at least one pixel wide and high.
    ///
    /// # Errors
    /// If the box is inverted.
    pub fn crop(&self, r#box: [f64; 4]) -> Result<SegmentationMask> {
        self.crop_by(r#box, PolygonCrop::Clamped)
    }

    /// [`crop`](Self::crop) with a choice of what polygons are shifted by.
    ///
    /// # Errors
    /// If the box is inverted.
    pub fn crop_by(&self, r#box: [f64; 4], rule: PolygonCrop) -> Result<SegmentationMask> {
        match &self.instances {
            Instances::Polygons(instances) => {
                let (shift, size) = polygons::crop_shift(r#box, self.size, rule)?;
                let shifted = instances.iter().map(|i| Arc::new(i.shifted(shift))).collect();
                Ok(Self::polygons(shifted, size))
            }
            Instances::Binary(masks) => Ok(Self::binary(binary::crop(masks, r#box)?)),
        }
    }

    /// The masks in the image resized to `size`. Pixels are resized bilinearly and return to their kind: uint8 is cut
    /// to whole numbers (only pixels of full weight stay 1), bool keeps whatever is not zero, float stays fractional.
    ///
    /// # Errors
    /// If the image has zero size.
    pub fn resize(&self, size: (i64, i64)) -> Result<SegmentationMask> {
        match &self.instances {
            Instances::Polygons(instances) => {
                let empty = self.size.0 == 0.0 || self.size.1 == 0.0;
                ensure!(!empty || instances.is_empty(), "{self:?} belongs to a region of zero size: no resize");
                let ratio = (size.0 as f64 / self.size.0, size.1 as f64 / self.size.1);
                let scaled = instances.iter().map(|i| Arc::new(i.scaled(ratio))).collect();
                Ok(Self::polygons(scaled, (size.0 as f64, size.1 as f64)))
            }
            Instances::Binary(masks) => {
                ensure!(size.0 > 0 && size.1 > 0, "no masks of {} x {} pixels", size.0, size.1);
                Ok(Self::binary(binary::resize(masks, size)))
            }
        }
    }

    /// The instances at these positions (int64, negative ones count from the end) or where the mask (bool or uint8)
    /// is set.
    ///
    /// # Errors
    /// If a position does not exist.
    pub fn select(&self, index: &Tensor) -> Result<SegmentationMask> {
        match &self.instances {
            Instances::Polygons(instances) => {
                let index = match index.kind() {
                    Kind::Bool | Kind::Uint8 => index.nonzero().squeeze_dim(1),
                    _ => index.shallow_clone(),
                };
                let number = instances.len() as i64;
                let at = |i: i64| {
                    let found = instances.get((if i < 0 { i + number } else { i }) as usize);
                    found.cloned().with_context(|| {
                        format!(
                            "there is no instance {i} among {number} (an instance needs a polygon of three points or more)"
                        )
                    })
                };
                let index = Vec::<i64>::try_from(index.to_kind(Kind::Int64))?;
                let selected: Result<Vec<_>> = index.into_iter().map(at).collect();
                Ok(Self::polygons(selected?, self.size))
            }
            Instances::Binary(masks) => Ok(Self::binary(select_rows(masks, index)?)),
        }
    }

    /// The masks in another mode; pixels become the outer contours of each instance.
    ///
    /// # Errors
    /// If polygons become pixels and the size is fractional.
    pub fn convert(&self, mode: MaskMode) -> Result<SegmentationMask> {
        match (&self.instances, mode) {
            (Instances::Polygons(_), MaskMode::Mask) => Ok(Self::binary(self.masks()?)),
            (Instances::Binary(masks), MaskMode::Poly) => {
                let instances = binary::contours(masks)?.into_iter().filter(|i| !i.is_empty());
                Ok(Self::polygons(instances.map(Arc::new).collect(), self.size))
            }
            _ => Ok(self.shallow_clone()),
        }
    }

    /// The masks as pixels: `[N, H, W]`, but `[H, W]` for a single one (as in the original); polygons give uint8.
    ///
    /// # Errors
    /// If the masks are polygons and the size is fractional.
    pub fn get_mask_tensor(&self) -> Result<Tensor> {
        Ok(self.masks()?.squeeze_dim(0))
    }

    /// The mask of every instance as run lengths; in parallel.
    ///
    /// # Errors
    /// As [`get_mask_tensor`](Self::get_mask_tensor), or more pixels than 32 bits count.
    pub fn encode(&self) -> Result<Vec<Rle>> {
        let masks = self.masks()?;
        let masks: Vec<Tensor> = (0..masks.size()[0]).map(|i| masks.get(i)).collect();
        masks.into_par_iter().map(|mask| rle::encode(&mask)).collect()
    }

    /// The masks as pixels, `[N, H, W]`.
    fn masks(&self) -> Result<Tensor> {
        let instances = match &self.instances {
            Instances::Polygons(instances) => instances,
            Instances::Binary(masks) => return Ok(masks.shallow_clone()),
        };
        let (width, height) = self.size();
        if instances.is_empty() {
            return Ok(Tensor::zeros([0, height, width], (Kind::Bool, tch::Device::Cpu)));
        }
        ensure!((width as f64, height as f64) == self.size, "{self:?} has no whole size: no mask");
        let size = (width * height) as usize;
        let mut pixels = vec![0; instances.len() * size];
        for (instance, pixels) in instances.iter().zip(pixels.chunks_exact_mut(size.max(1))) {
            instance.draw((width, height), pixels)?;
        }
        Ok(Tensor::from_slice(&pixels).view([instances.len() as i64, height, width]))
    }

    /// The mask of instance `i` within box `i`, at `size` `(width, height)`: crop, resize and conversion to pixels of
    /// each pair, which is what mask targets need; polygons in parallel where there are many.
    ///
    /// # Shapes
    /// `boxes`: `[N, 4]` corners for `N` instances; returns `[N, height, width]` (uint8 for polygons, else the kind of
    /// the masks) on the CPU.
    ///
    /// # Errors
    /// If there are not as many boxes as instances, or a box has zero size or is inverted.
    pub fn crop_and_resize(&self, boxes: &Tensor, size: (i64, i64), rule: PolygonCrop) -> Result<Tensor> {
        let number = self.len();
        let boxes = Vec::<f32>::try_from(boxes.to_kind(Kind::Float).to_device(tch::Device::Cpu).flatten(0, -1))?;
        ensure!(boxes.len() == 4 * number, "{number} masks for {} boxes", boxes.len() / 4);
        let corners = |i: usize| [boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]];
        match &self.instances {
            Instances::Polygons(instances) => {
                let (width, height) = size;
                let image_size = self.size;
                let area = (width * height) as usize;
                let mut pixels = vec![0; number * area];
                let targets = pixels.par_chunks_exact_mut(area.max(1)).zip(instances).enumerate();
                targets.with_min_len(CROPS_PER_THREAD).try_for_each(|(i, (pixels, instance))| {
                    polygons::target(instance, corners(i), image_size, size, rule, pixels)
                })?;
                Ok(Tensor::from_slice(&pixels).view([number as i64, height, width]))
            }
            Instances::Binary(masks) => {
                let mut resized = Vec::with_capacity(number);
                for i in 0..number {
                    let part = binary::crop(&masks.narrow(0, i as i64, 1), corners(i).map(f64::from))?;
                    resized.push(binary::resize(&part, size));
                }
                if resized.is_empty() {
                    return Ok(Tensor::zeros([0, size.1, size.0], (masks.kind(), masks.device())));
                }
                Ok(Tensor::cat(&resized, 0))
            }
        }
    }
}

/// The original's `repr`.
impl fmt::Debug for SegmentationMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode() {
            MaskMode::Poly => "poly",
            MaskMode::Mask => "mask",
        };
        let (width, height) = self.size;
        let number = self.len();
        write!(f, "SegmentationMask(num_instances={number}, image_width={width}, image_height={height}, mode={mode})")
    }
}

#[cfg(test)]
mod tests;
