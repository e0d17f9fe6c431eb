//! Keypoints of the instances of one image (the original's `structures/keypoint.py`).

use std::fmt;

use anyhow::{bail, ensure, Context, Result};
use tch::{Device, Kind, Tensor};

use super::bounding_box::Flip;
use super::field::{select_rows, Fields};
use super::to_device;

/// The names of a kind of keypoints, which of them trade places in a mirror image, and which are joined in a drawing.
#[derive(Debug, PartialEq, Eq)]
pub struct Skeleton {
    /// In the order of the annotations.
    pub names: &'static [&'static str],
    /// Pairs that trade places in a left-right flip.
    pub flip_map: &'static [(&'static str, &'static str)],
    /// Pairs to be joined by a line.
    pub connections: &'static [(&'static str, &'static str)],
}

impl Skeleton {
    /// The position of a name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| *n == name)
    }

    /// For every keypoint, the position of the one that takes its place in a left-right flip.
    pub fn flip_indices(&self) -> Vec<i64> {
        let partner = |name: &&'static str| {
            let pair = self.flip_map.iter().find(|(a, b)| a == name || b == name);
            pair.map_or(*name, |(a, b)| if a == name { b } else { a })
        };
        let of = |name: &&'static str| self.position(partner(name)).or(self.position(name)).expect("its own name");
        self.names.iter().map(|name| of(name) as i64).collect()
    }

    /// [`connections`](Self::connections) as positions.
    pub fn connection_indices(&self) -> Vec<(usize, usize)> {
        let both = |(a, b): &(&str, &str)| Some((self.position(a)?, self.position(b)?));
        self.connections.iter().filter_map(both).collect()
    }
}

/// COCO's seventeen keypoints of a person.
pub static PERSON_KEYPOINTS: Skeleton = Skeleton {
    names: &[
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ],
    flip_map: &[
        ("left_eye", "right_eye"),
        ("left_ear", "right_ear"),
        ("left_shoulder", "right_shoulder"),
        ("left_elbow", "right_elbow"),
        ("left_wrist", "right_wrist"),
        ("left_hip", "right_hip"),
        ("left_knee", "right_knee"),
        ("left_ankle", "right_ankle"),
    ],
    connections: &[
        ("left_eye", "right_eye"),
        ("left_eye", "nose"),
        ("right_eye", "nose"),
        ("right_eye", "right_ear"),
        ("left_eye", "left_ear"),
        ("right_shoulder", "right_elbow"),
        ("right_elbow", "right_wrist"),
        ("left_shoulder", "left_elbow"),
        ("left_elbow", "left_wrist"),
        ("right_hip", "right_knee"),
        ("right_knee", "right_ankle"),
        ("left_hip", "left_knee"),
        ("left_knee", "left_ankle"),
        ("right_shoulder", "left_shoulder"),
        ("right_hip", "left_hip"),
    ],
};

/// The keypoints of the instances of one image, with tensors that belong to them (such as `scores`) by name.
pub struct Keypoints {
    keypoints: Tensor,
    size: (f64, f64),
    skeleton: &'static Skeleton,
    fields: Fields<Tensor>,
}

impl Keypoints {
    /// Keypoints of any kind.
    ///
    /// # Shapes
    /// `keypoints`: `[N, K, 3]` or `[N, K * 3]` as x, y, visibility (made float32 and `[N, K, 3]`; a tensor without
    /// instances keeps its shape); `size`: `(width, height)` of the image.
    ///
    /// # Errors
    /// If the numbers do not make triples.
    pub fn new(keypoints: Tensor, size: (i64, i64), skeleton: &'static Skeleton) -> Result<Keypoints> {
        let shape = keypoints.size();
        ensure!(!shape.is_empty(), "keypoints should have a dimension for the instances");
        let mut keypoints = keypoints.to_kind(Kind::Float);
        if shape[0] > 0 {
            keypoints = keypoints
                .f_reshape([shape[0], -1, 3])
                .with_context(|| format!("keypoints of shape {shape:?} are no triples of x, y, visibility"))?;
        }
        Ok(Keypoints { keypoints, size: (size.0 as f64, size.1 as f64), skeleton, fields: Fields::new() })
    }

    /// Keypoints with the skeleton of a person, COCO's 17. Data sets of other keypoints come this way too, as in the
    /// original: any number of them can be resized, but only as many as the skeleton has mirrored.
    ///
    /// # Errors
    /// See [`new`](Self::new).
    pub fn person(keypoints: Tensor, size: (i64, i64)) -> Result<Keypoints> {
        Self::new(keypoints, size, &PERSON_KEYPOINTS)
    }

    /// x, y and visibility, `[N, K, 3]`, float32.
    pub fn keypoints(&self) -> &Tensor {
        &self.keypoints
    }

    /// `(width, height)` of the image in whole pixels.
    pub fn size(&self) -> (i64, i64) {
        (self.size.0 as i64, self.size.1 as i64)
    }

    /// What kind of keypoints these are.
    pub fn skeleton(&self) -> &'static Skeleton {
        self.skeleton
    }

    /// The number of instances.
    pub fn len(&self) -> usize {
        self.keypoints.size()[0] as usize
    }

    /// Whether there is no instance.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a tensor with one entry per instance, or replaces the one of that name.
    pub fn add_field(&mut self, name: &str, field: Tensor) {
        self.fields.add(name, field);
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn get_field(&self, name: &str) -> Result<&Tensor> {
        self.fields.get(name).with_context(|| format!("Field '{name}' not found in {self:?}"))
    }

    /// The names of the fields, in the order in which they were added.
    pub fn fields(&self) -> Vec<&str> {
        self.fields.names()
    }

    /// Another handle on the same keypoints.
    pub fn shallow_clone(&self) -> Keypoints {
        self.with(self.keypoints.shallow_clone(), self.size)
    }

    /// The keypoints in the image resized to `size`.
    ///
    /// # Errors
    /// If the image has zero size.
    pub fn resize(&self, size: (i64, i64)) -> Result<Keypoints> {
        ensure!(self.size.0 != 0.0 && self.size.1 != 0.0, "{self:?} belongs to an image of zero size: no resize");
        let exact = (size.0 as f64, size.1 as f64);
        if self.is_empty() {
            return Ok(self.with(self.keypoints.shallow_clone(), exact));
        }
        let ratio = [(exact.0 / self.size.0) as f32, (exact.1 / self.size.1) as f32, 1.0];
        Ok(self.with(&self.keypoints * Tensor::from_slice(&ratio).to_device(self.keypoints.device()), exact))
    }

    /// The keypoints in the mirrored image: x becomes `width - x - 1`, left and right trade names, and what has
    /// visibility 0 becomes all zero (COCO's convention).
    ///
    /// # Errors
    /// If the flip is top-bottom, which the original does not define, or the keypoints are not those of the skeleton.
    pub fn transpose(&self, flip: Flip) -> Result<Keypoints> {
        if flip == Flip::TopBottom {
            bail!("keypoints can only be flipped left-right (set INPUT.VERTICAL_FLIP_PROB_TRAIN to 0.0 for keypoints)");
        }
        if self.is_empty() {
            return Ok(self.shallow_clone());
        }
        let number = self.keypoints.size()[1];
        let expected = self.skeleton.names.len() as i64;
        ensure!(number == expected, "{number} keypoints per instance cannot be flipped, expected {expected}");
        let flip_indices = Tensor::from_slice(&self.skeleton.flip_indices()).to_device(self.keypoints.device());
        let swapped = self.keypoints.index_select(1, &flip_indices);
        let x = swapped.narrow(2, 0, 1).neg() + self.size.0 - 1;
        let visibility = swapped.narrow(2, 2, 1);
        let flipped = Tensor::cat(&[x, swapped.narrow(2, 1, 1), visibility.shallow_clone()], 2);
        Ok(self.with(flipped.masked_fill(&visibility.eq(0.0), 0.0), self.size))
    }

    /// Not defined: the original has no crop of keypoints either.
    ///
    /// # Errors
    /// Always.
    pub fn crop(&self, _box: [f64; 4]) -> Result<Keypoints> {
        bail!("keypoints cannot be cropped")
    }

    /// The keypoints and their fields on `device`.
    pub fn to_device(&self, device: Device) -> Keypoints {
        self.map_tensors(&mut |tensor| to_device(tensor, device))
    }

    /// With every tensor changed, always in the same order.
    pub(super) fn map_tensors(&self, change: &mut impl FnMut(&Tensor) -> Tensor) -> Keypoints {
        let keypoints = change(&self.keypoints);
        Keypoints { fields: self.fields.map(change), ..self.with(keypoints, self.size) }
    }

    /// The instances at these positions (int64) or where the mask (bool, uint8) is set.
    ///
    /// # Errors
    /// If a position does not exist.
    pub fn select(&self, index: &Tensor) -> Result<Keypoints> {
        let fields = self.fields.try_map(|field| select_rows(field, index))?;
        Ok(Keypoints { fields, ..self.with(select_rows(&self.keypoints, index)?, self.size) })
    }

    fn with(&self, keypoints: Tensor, size: (f64, f64)) -> Keypoints {
        Keypoints { keypoints, size, skeleton: self.skeleton, fields: self.fields.map(Tensor::shallow_clone) }
    }
}

impl fmt::Debug for Keypoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.size;
        write!(f, "Keypoints(num_instances={}, image_width={width}, image_height={height})", self.len())
    }
}

/// Where keypoints fall in the heat maps of their regions: `(index, valid)`.
///
/// The index is `y * heatmap_size + x` of the cell, 0 where the point is invisible or outside; a point exactly on the
/// far edge belongs to the last cell. The sides of a region are taken without the +1 of inclusive corners.
///
/// # Shapes
/// `keypoints`: `[N, K, 3]`; `rois`: `[N, 4]` corners; returns int64 `[N, K]` each, `[0]` each without regions.
pub fn keypoints_to_heat_map(keypoints: &Tensor, rois: &Tensor, heatmap_size: i64) -> (Tensor, Tensor) {
    if rois.numel() == 0 {
        let none = || Tensor::zeros([0], (Kind::Int64, rois.device()));
        return (none(), none());
    }
    let cell = |axis: i64| {
        let (near, far) = (rois.narrow(1, axis, 1), rois.narrow(1, axis + 2, 1));
        let scale = (&far - &near).reciprocal() * heatmap_size;
        let point = keypoints.select(-1, axis);
        let cell = ((&point - &near) * scale).floor().to_kind(Kind::Int64);
        cell.masked_fill(&point.eq_tensor(&far), heatmap_size - 1)
    };
    let (x, y) = (cell(0), cell(1));
    let inside = |c: &Tensor| c.ge(0).logical_and(&c.lt(heatmap_size));
    let visible = keypoints.select(-1, 2).gt(0.0);
    let valid = inside(&x).logical_and(&inside(&y)).logical_and(&visible).to_kind(Kind::Int64);
    ((y * heatmap_size + x) * &valid, valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipping_twice_is_the_same_for_visible_points() {
        let points: Vec<f32> = (0..2 * 17).flat_map(|i| [i as f32, 2.0 * i as f32, 1.0 + (i % 2) as f32]).collect();
        let person = Keypoints::person(Tensor::from_slice(&points).view([2, 51]), (60, 80)).unwrap();
        let twice = person.transpose(Flip::LeftRight).and_then(|k| k.transpose(Flip::LeftRight)).unwrap();
        assert!(twice.keypoints().equal(person.keypoints()));
        assert!(person.transpose(Flip::TopBottom).is_err());
    }

    #[test]
    fn another_number_of_keypoints_cannot_be_flipped() {
        let three = Keypoints::person(Tensor::ones([1, 9], (Kind::Float, Device::Cpu)), (60, 80)).unwrap();
        assert!(three.transpose(Flip::LeftRight).unwrap_err().to_string().contains("expected 17"));
        assert!(Keypoints::person(Tensor::ones([1, 10], (Kind::Float, Device::Cpu)), (60, 80)).is_err());
    }

    #[test]
    fn fields_follow_a_selection() {
        let mut person = Keypoints::person(Tensor::ones([3, 51], (Kind::Float, Device::Cpu)), (60, 80)).unwrap();
        person.add_field("scores", Tensor::from_slice(&[0.1f32, 0.2, 0.3]));
        let last = person.select(&Tensor::from_slice(&[-1i64])).unwrap();
        assert_eq!(Vec::<f32>::try_from(last.get_field("scores").unwrap()).unwrap(), [0.3]);
    }
}
