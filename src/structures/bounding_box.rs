//! Boxes of one image with what belongs to each of them (the original's `structures/bounding_box.py`).

use std::fmt;

use anyhow::{bail, ensure, Context, Result};
use tch::{Device, Kind, Tensor};

use super::field::{select_rows, Field, Fields};
use super::{to_device, Keypoints, SegmentationMask};

/// How the four numbers of a box are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `x1, y1, x2, y2`, both corners inside the box.
    Xyxy,
    /// `x, y, width, height`, where `width = x2 - x1 + 1`.
    Xywh,
}

impl Mode {
    /// The original's name: `xyxy` or `xywh`.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Xyxy => "xyxy",
            Mode::Xywh => "xywh",
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "xyxy" => Ok(Mode::Xyxy),
            "xywh" => Ok(Mode::Xywh),
            _ => bail!("mode should be 'xyxy' or 'xywh', not '{name}'"),
        }
    }
}

/// A mirror image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// Left becomes right.
    LeftRight,
    /// Top becomes bottom.
    TopBottom,
}

/// The boxes of one image: a `[N, 4]` tensor, the size of that image, and named fields with one entry per box.
///
/// Operations return a new list and leave this one alone; tensors that do not change are shared, not copied.
pub struct BoxList {
    bbox: Tensor,
    size: (f64, f64),
    mode: Mode,
    fields: Fields<Field>,
}

impl BoxList {
    /// A list without fields.
    ///
    /// # Shapes
    /// `bbox`: `[N, 4]`, of any kind (it is made float32); `size`: `(width, height)` of the image in pixels.
    ///
    /// # Errors
    /// If `bbox` has another shape.
    pub fn new(bbox: Tensor, size: (i64, i64), mode: Mode) -> Result<BoxList> {
        ensure!(bbox.dim() == 2, "bbox should have 2 dimensions, got {}", bbox.dim());
        let last = bbox.size()[1];
        ensure!(last == 4, "last dimension of bbox should have a size of 4, got {last}");
        Ok(Self::with_exact_size(bbox.to_kind(Kind::Float), (size.0 as f64, size.1 as f64), mode))
    }

    fn with_exact_size(bbox: Tensor, size: (f64, f64), mode: Mode) -> BoxList {
        BoxList { bbox, size, mode, fields: Fields::new() }
    }

    /// The boxes, `[N, 4]`, float32.
    pub fn bbox(&self) -> &Tensor {
        &self.bbox
    }

    /// `(width, height)` of the image in whole pixels.
    pub fn size(&self) -> (i64, i64) {
        (self.size.0 as i64, self.size.1 as i64)
    }

    /// `(width, height)` of the image; differs from [`size`](Self::size) only after a crop with a fractional box.
    pub fn exact_size(&self) -> (f64, f64) {
        self.size
    }

    /// How the boxes are to be read.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The number of boxes.
    pub fn len(&self) -> usize {
        self.bbox.size()[0] as usize
    }

    /// Whether there is no box.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the boxes are.
    pub fn device(&self) -> Device {
        self.bbox.device()
    }

    /// Adds a field, or replaces the one of that name.
    pub fn add_field(&mut self, name: &str, field: impl Into<Field>) {
        self.fields.add(name, field.into());
    }

    /// The field of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn get_field(&self, name: &str) -> Result<&Field> {
        self.fields.get(name).with_context(|| format!("Field '{name}' not found in {self}"))
    }

    /// Whether there is a field of that name.
    pub fn has_field(&self, name: &str) -> bool {
        self.fields.get(name).is_some()
    }

    /// The names of the fields, in the order in which they were added.
    pub fn fields(&self) -> Vec<&str> {
        self.fields.names()
    }

    /// A field that must be a tensor.
    ///
    /// # Errors
    /// If there is no such field or it is something else.
    pub fn tensor_field(&self, name: &str) -> Result<&Tensor> {
        match self.get_field(name)? {
            Field::Tensor(tensor) => Ok(tensor),
            _ => bail!("field '{name}' of {self} is no tensor"),
        }
    }

    /// The field `masks`.
    ///
    /// # Errors
    /// If there is no such field or it holds no masks.
    pub fn masks(&self) -> Result<&SegmentationMask> {
        match self.get_field("masks")? {
            Field::Masks(masks) => Ok(masks),
            _ => bail!("field 'masks' of {self} holds no segmentation masks"),
        }
    }

    /// The field `keypoints`.
    ///
    /// # Errors
    /// If there is no such field or it holds no keypoints.
    pub fn keypoints(&self) -> Result<&Keypoints> {
        match self.get_field("keypoints")? {
            Field::Keypoints(keypoints) => Ok(keypoints),
            _ => bail!("field 'keypoints' of {self} holds no keypoints"),
        }
    }

    /// Another handle on the same boxes and fields.
    pub fn shallow_clone(&self) -> BoxList {
        self.with_all_fields(Self::with_exact_size(self.bbox.shallow_clone(), self.size, self.mode))
    }

    /// The same boxes in another mode, with all fields.
    pub fn convert(&self, mode: Mode) -> BoxList {
        let corners = self.corners();
        let bbox = match mode {
            _ if mode == self.mode => return self.shallow_clone(),
            Mode::Xyxy => corners,
            Mode::Xywh => {
                let (top_left, bottom_right) = (corners.narrow(1, 0, 2), corners.narrow(1, 2, 2));
                Tensor::cat(&[&top_left, &(bottom_right - &top_left + 1)], 1)
            }
        };
        self.with_all_fields(Self::with_exact_size(bbox, self.size, mode))
    }

    /// The boxes as corners, `[N, 4]`; a width or height below 1 counts as 1.
    fn corners(&self) -> Tensor {
        match self.mode {
            Mode::Xyxy => self.bbox.shallow_clone(),
            Mode::Xywh => {
                let (corner, sides) = (self.bbox.narrow(1, 0, 2), self.bbox.narrow(1, 2, 2));
                let opposite = &corner + (sides - 1).clamp_min(0);
                Tensor::cat(&[corner, opposite], 1)
            }
        }
    }

    /// The boxes and their masks and keypoints in the image resized to `size`.
    ///
    /// With one ratio for both sides the four numbers are scaled as they are; with two, `xywh` boxes go through their
    /// corners, which gives slightly different values (as in the original).
    ///
    /// # Errors
    /// If this list belongs to an image of zero size.
    pub fn resize(&self, size: (i64, i64)) -> Result<BoxList> {
        ensure!(self.size.0 != 0.0 && self.size.1 != 0.0, "{self} belongs to an image of zero size: no resize");
        let ratio = (size.0 as f64 / self.size.0, size.1 as f64 / self.size.1);
        let exact = (size.0 as f64, size.1 as f64);
        let resized = if ratio.0 == ratio.1 {
            Self::with_exact_size(&self.bbox * ratio.0, exact, self.mode)
        } else {
            let scaled = self.corners() * self.row([ratio.0, ratio.1, ratio.0, ratio.1]);
            Self::with_exact_size(scaled, exact, Mode::Xyxy)
        };
        let fields = self.transformed_fields(|m| m.resize(size), |k| k.resize(size))?;
        Ok(BoxList { fields, ..resized }.convert(self.mode))
    }

    /// The boxes and their masks and keypoints in the mirrored image.
    ///
    /// A left-right flip maps `x` to `width - x - 1`, a top-bottom flip maps `y` to `height - y` (as in the original).
    ///
    /// # Errors
    /// If there are keypoints and the flip is top-bottom, which the original does not define.
    pub fn transpose(&self, flip: Flip) -> Result<BoxList> {
        let corners = self.corners();
        let column = |i: i64| corners.narrow(1, i, 1);
        let (width, height) = self.size;
        let mirrored = |c: Tensor, side: f64| c.neg() + side;
        let bbox = match flip {
            Flip::LeftRight => {
                Tensor::cat(&[mirrored(column(2), width) - 1, column(1), mirrored(column(0), width) - 1, column(3)], 1)
            }
            Flip::TopBottom => {
                Tensor::cat(&[column(0), mirrored(column(3), height), column(2), mirrored(column(1), height)], 1)
            }
        };
        let fields = self.transformed_fields(|m| Ok(m.transpose(flip)), |k| k.transpose(flip))?;
        Ok(BoxList { fields, ..Self::with_exact_size(bbox, self.size, Mode::Xyxy) }.convert(self.mode))
    }

    /// The boxes in the part `[x1, y1, x2, y2]` of the image, whose size becomes `(x2 - x1, y2 - y1)`, without the
    /// +1 of inclusive corners. Boxes outside become empty ones; none is removed.
    ///
    /// # Errors
    /// If there are keypoints, whose crop the original does not define, or binary masks and the box is inverted.
    pub fn crop(&self, r#box: [f64; 4]) -> Result<BoxList> {
        let [x1, y1, x2, y2] = r#box;
        let (width, height) = (x2 - x1, y2 - y1);
        let shifted = self.corners() - self.row([x1, y1, x1, y1]);
        // min after max: a negative width wins over the lower limit, as in torch.clamp.
        let bbox = shifted.clamp_min(0).minimum(&self.row([width, height, width, height]));
        let fields = self.transformed_fields(|m| m.crop(r#box), |k| k.crop(r#box))?;
        Ok(BoxList { fields, ..Self::with_exact_size(bbox, (width, height), Mode::Xyxy) }.convert(self.mode))
    }

    /// The list with every tensor on `device`. Masks stay on the CPU, as in the original.
    pub fn to_device(&self, device: Device) -> BoxList {
        self.map_tensors(&mut |tensor| to_device(tensor, device))
    }

    /// With every tensor changed, always in the same order. Masks stay.
    pub(super) fn map_tensors(&self, change: &mut impl FnMut(&Tensor) -> Tensor) -> BoxList {
        let changed = Self::with_exact_size(change(&self.bbox), self.size, self.mode);
        let fields = self.fields.map(|field| match field {
            Field::Tensor(t) => Field::Tensor(change(t)),
            Field::Masks(m) => Field::Masks(m.shallow_clone()),
            Field::Keypoints(k) => Field::Keypoints(k.map_tensors(change)),
        });
        BoxList { fields, ..changed }
    }

    /// The boxes at these positions, with their fields: Python's `boxlist[index]`.
    ///
    /// # Shapes
    /// `index`: int64 positions `[K]` (negative ones count from the end), or a bool or uint8 mask `[N]`.
    ///
    /// # Errors
    /// If a position does not exist, in the boxes or in a field. Masks can be fewer than boxes, since instances
    /// without a polygon of three points are dropped.
    pub fn select(&self, index: &Tensor) -> Result<BoxList> {
        // The number of set positions is read from the device once, not for every field.
        let index = &match index.kind() {
            Kind::Bool | Kind::Uint8 => {
                let shape = index.size();
                ensure!(shape == self.bbox.size()[..1], "selecting boxes of {self} with a mask of shape {shape:?}");
                index.nonzero().squeeze_dim(1)
            }
            _ => index.shallow_clone(),
        };
        let bbox = select_rows(&self.bbox, index).with_context(|| format!("selecting boxes of {self}"))?;
        let fields =
            self.fields.try_map(|field| field.select(index)).with_context(|| format!("selecting in {self}"))?;
        Ok(BoxList { fields, ..Self::with_exact_size(bbox, self.size, self.mode) })
    }

    /// Moves the corners into the image (`0..=width - 1`, `0..=height - 1`); `remove_empty` then drops boxes with
    /// `x2 <= x1` or `y2 <= y1`, so boxes one pixel wide go too. Like the original it ignores the mode: the numbers of
    /// an `xywh` list are treated as corners.
    ///
    /// # Errors
    /// See [`select`](Self::select); without `remove_empty` there are none.
    pub fn clip_to_image(mut self, remove_empty: bool) -> Result<BoxList> {
        let (right, bottom) = (self.size.0 - 1.0, self.size.1 - 1.0);
        self.bbox = self.bbox.clamp_min(0);
        // No tensor of the four limits, which would have to be sent to the device.
        let _ = self.bbox.slice(1, 0, None, 2).clamp_max_(right);
        let _ = self.bbox.slice(1, 1, None, 2).clamp_max_(bottom);
        if !remove_empty {
            return Ok(self);
        }
        let column = |i: i64| self.bbox.select(1, i);
        let keep = column(3).gt_tensor(&column(1)).logical_and(&column(2).gt_tensor(&column(0)));
        self.select(&keep)
    }

    /// The area of every box, `[N]`: `(x2 - x1 + 1) * (y2 - y1 + 1)`, or `width * height`.
    pub fn area(&self) -> Tensor {
        let column = |i: i64| self.bbox.select(1, i);
        match self.mode {
            Mode::Xyxy => (column(2) - column(0) + 1) * (column(3) - column(1) + 1),
            Mode::Xywh => column(2) * column(3),
        }
    }

    /// The boxes with only these fields.
    ///
    /// # Errors
    /// If a field does not exist, unless `skip_missing`.
    pub fn copy_with_fields(&self, names: &[&str], skip_missing: bool) -> Result<BoxList> {
        let mut copy = Self::with_exact_size(self.bbox.shallow_clone(), self.size, self.mode);
        for name in names {
            if self.has_field(name) || !skip_missing {
                copy.add_field(name, self.get_field(name)?.shallow_clone());
            }
        }
        Ok(copy)
    }

    /// Other boxes of the same image and mode, without fields.
    pub fn with_boxes(&self, bbox: Tensor) -> BoxList {
        Self::with_exact_size(bbox, self.size, self.mode)
    }

    /// A `[1, 4]` tensor beside the boxes.
    fn row(&self, values: [f64; 4]) -> Tensor {
        Tensor::from_slice(&values.map(|v| v as f32)).unsqueeze(0).to_device(self.device())
    }

    fn with_all_fields(&self, list: BoxList) -> BoxList {
        BoxList { fields: self.fields.map(Field::shallow_clone), ..list }
    }

    fn transformed_fields(
        &self,
        masks: impl Fn(&SegmentationMask) -> Result<SegmentationMask>,
        keypoints: impl Fn(&Keypoints) -> Result<Keypoints>,
    ) -> Result<Fields<Field>> {
        self.fields.try_map(|field| field.transformed(&masks, &keypoints))
    }
}

/// The original's `repr`.
impl fmt::Display for BoxList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BoxList(num_boxes={}, image_width={}, image_height={}, mode={})",
            self.len(),
            self.size.0,
            self.size.1,
            self.mode.name()
        )
    }
}

impl fmt::Debug for BoxList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} with fields {:?}", self.fields())
    }
}

#[cfg(test)]
mod tests;
