//! What a box list keeps per box, and values by name.

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::{Keypoints, SegmentationMask};

/// What a [`BoxList`](super::BoxList) keeps per box under a name.
#[derive(Debug)]
pub enum Field {
    /// One entry per box along the first dimension; geometry leaves it as it is.
    Tensor(Tensor),
    /// One mask per box, transformed along with the boxes.
    Masks(SegmentationMask),
    /// One set of keypoints per box, transformed along with the boxes.
    Keypoints(Keypoints),
}

impl Field {
    /// Another handle on the same data.
    pub fn shallow_clone(&self) -> Field {
        match self {
            Field::Tensor(t) => Field::Tensor(t.shallow_clone()),
            Field::Masks(m) => Field::Masks(m.shallow_clone()),
            Field::Keypoints(k) => Field::Keypoints(k.shallow_clone()),
        }
    }

    pub(super) fn select(&self, index: &Tensor) -> Result<Field> {
        Ok(match self {
            Field::Tensor(t) => Field::Tensor(select_rows(t, index)?),
            Field::Masks(m) => Field::Masks(m.select(index)?),
            Field::Keypoints(k) => Field::Keypoints(k.select(index)?),
        })
    }

    /// Applies what a geometric operation does to masks and keypoints; tensors stay.
    pub(super) fn transformed(
        &self,
        masks: impl FnOnce(&SegmentationMask) -> Result<SegmentationMask>,
        keypoints: impl FnOnce(&Keypoints) -> Result<Keypoints>,
    ) -> Result<Field> {
        Ok(match self {
            Field::Tensor(t) => Field::Tensor(t.shallow_clone()),
            Field::Masks(m) => Field::Masks(masks(m)?),
            Field::Keypoints(k) => Field::Keypoints(keypoints(k)?),
        })
    }
}

impl From<Tensor> for Field {
    fn from(tensor: Tensor) -> Self {
        Field::Tensor(tensor)
    }
}

impl From<SegmentationMask> for Field {
    fn from(masks: SegmentationMask) -> Self {
        Field::Masks(masks)
    }
}

impl From<Keypoints> for Field {
    fn from(keypoints: Keypoints) -> Self {
        Field::Keypoints(keypoints)
    }
}

/// Values by name, in the order in which they were added.
#[derive(Debug)]
pub(super) struct Fields<T>(Vec<(String, T)>);

impl<T> Fields<T> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a value, or replaces the one of that name.
    pub(super) fn add(&mut self, name: &str, value: T) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The same names with other values.
    pub(super) fn map(&self, mut change: impl FnMut(&T) -> T) -> Self {
        Self(self.0.iter().map(|(name, value)| (name.clone(), change(value))).collect())
    }

    /// The same names with other values.
    ///
    /// # Errors
    /// That of `change`, with the name of the field.
    pub(super) fn try_map(&self, change: impl Fn(&T) -> Result<T>) -> Result<Self> {
        let one =
            |(name, value): &(String, T)| Ok((name.clone(), change(value).with_context(|| format!("field '{name}'"))?));
        self.0.iter().map(one).collect::<Result<_>>().map(Self)
    }
}

/// `tensor[index]` along the first dimension, with integer positions (negative ones count from the end) or a mask.
pub(super) fn select_rows(tensor: &Tensor, index: &Tensor) -> Result<Tensor> {
    let index = match index.kind() {
        Kind::Uint8 => index.to_kind(Kind::Bool),
        _ => index.shallow_clone(),
    };
    tensor.f_index(&[Some(index.to_device(tensor.device()))]).with_context(|| {
        format!("selecting with an index of shape {:?} from a tensor of shape {:?}", index.size(), tensor.size())
    })
}
