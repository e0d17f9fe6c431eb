//! Ids of images that are text, and numbers in their place.

use std::collections::HashMap;

use super::{ImageEntry, ImageId};

/// Where images stand in a list, by the ids that annotations give them.
pub(crate) struct ImagePlaces(HashMap<ImageId, usize>);

impl ImagePlaces {
    pub(crate) fn new(images: &[ImageEntry]) -> Self {
        let mut places: HashMap<ImageId, usize> =
            images.iter().enumerate().map(|(at, image)| (image.id.clone(), at)).collect();
        // Some tools write the ids of images as text and those in annotations as numbers.
        for (at, image) in images.iter().enumerate() {
            if let Some(number) = spelled_out(&image.id) {
                places.entry(number).or_insert(at);
            }
        }
        Self(places)
    }

    /// `None` for an image that is not in the list.
    pub(crate) fn place(&self, id: &ImageId) -> Option<usize> {
        // Others do so the other way round.
        self.0.get(id).or_else(|| self.0.get(&spelled_out(id)?)).copied()
    }
}

/// The number that a text such as `"0004"` spells.
fn spelled_out(id: &ImageId) -> Option<ImageId> {
    match id {
        ImageId::Name(text) => text.trim().parse().ok().map(ImageId::Number),
        ImageId::Number(_) => None,
    }
}

/// Numbers for images where names are of no use: places from 1 in the order of the ids, which is that of
/// `CocoFile::images`. `None` if all ids are numbers.
pub(crate) fn numbers_for_names(images: &[ImageEntry]) -> Option<Vec<u64>> {
    if images.iter().all(|image| image.id.number().is_some()) {
        return None;
    }
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.sort_by(|&a, &b| images[a].id.cmp(&images[b].id));
    let mut numbers = vec![0; images.len()];
    for (number, at) in (1..).zip(order) {
        numbers[at] = number;
    }
    Some(numbers)
}
