//! From the samples of a batch to the network's input (the original's `collate_batch.py`).

use super::datasets::Sample;
use super::transforms::{Normalize, RgbImage};
use crate::ffi;
use crate::structures::{BoxList, ImageList};

/// One batch.
pub struct Batch {
    /// The normalised images, padded with zeros to a common size.
    pub images: ImageList,
    /// What is in each image, at its size in the batch without the padding.
    pub targets: Vec<BoxList>,
    /// The images' indices in the data set.
    pub indices: Vec<usize>,
    /// With `TEST.BBOX_AUG.ENABLED`, the images as read, which test-time augmentation transforms itself; `images` is then
    /// an empty `[0, 3, 0, 0]`. Otherwise empty.
    pub originals: Vec<RgbImage>,
}

/// Makes a batch of samples.
#[derive(Clone, Debug)]
pub enum Collator {
    /// Normalises the images and pads them to the largest height and width, rounded up to a multiple of
    /// `size_divisible` where that is positive.
    Images { normalize: Normalize, size_divisible: i64 },
    /// Leaves the images as they are: the original's `BBoxAugCollator`.
    Originals,
}

/// A batch in plain memory, as loader threads make it.
pub(super) struct PlainBatch {
    planes: Vec<f32>,
    /// Number, height and width of the padded images.
    shape: [usize; 3],
    sizes_hw: Vec<(i64, i64)>,
    targets: Vec<BoxList>,
    indices: Vec<usize>,
    originals: Vec<RgbImage>,
}

impl Collator {
    pub(super) fn collate(&self, samples: Vec<Sample>) -> PlainBatch {
        let mut batch = PlainBatch {
            planes: Vec::new(),
            shape: [0; 3],
            sizes_hw: Vec::new(),
            targets: Vec::with_capacity(samples.len()),
            indices: Vec::with_capacity(samples.len()),
            originals: Vec::with_capacity(samples.len()),
        };
        for sample in samples {
            batch.targets.push(sample.target);
            batch.indices.push(sample.index);
            batch.originals.push(sample.image);
        }
        if let Self::Images { normalize, size_divisible } = self {
            let images = std::mem::take(&mut batch.originals);
            let divisible = usize::try_from(*size_divisible).unwrap_or(0).max(1);
            let largest = |side: fn(&RgbImage) -> usize| images.iter().map(side).max().unwrap_or(0);
            let [height, width] = [largest(|image| image.height), largest(|image| image.width)]
                .map(|side| side.next_multiple_of(divisible));
            batch.shape = [images.len(), height, width];
            batch.planes = vec![0.0; images.len() * 3 * height * width];
            for (image, planes) in images.iter().zip(batch.planes.chunks_exact_mut((3 * height * width).max(1))) {
                normalize.write(image, planes, (height, width));
            }
            batch.sizes_hw = images.iter().map(|image| (image.height as i64, image.width as i64)).collect();
        }
        batch
    }

    /// The batch of these samples.
    pub fn batch(&self, samples: Vec<Sample>) -> Batch {
        self.collate(samples).into_batch()
    }
}

impl PlainBatch {
    pub(super) fn into_batch(self) -> Batch {
        let [number, height, width] = self.shape.map(|size| size as i64);
        let tensors = ffi::tensor_of(self.planes, &[number, 3, height, width]).expect("a plane for each channel");
        Batch {
            images: ImageList { tensors, image_sizes: self.sizes_hw },
            targets: self.targets,
            indices: self.indices,
            originals: self.originals,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structures::{to_image_list, Mode};
    use tch::{Device, Kind, Tensor};

    fn sample(index: usize, width: usize, height: usize) -> Sample {
        let data = (0..width * height * 3).map(|value| (value * 7 + index) as u8).collect();
        let boxes = Tensor::zeros([0, 4], (Kind::Float, Device::Cpu));
        let target = BoxList::new(boxes, (width as i64, height as i64), Mode::Xyxy).unwrap();
        Sample { image: RgbImage::new(width, height, data), target, index }
    }

    #[test]
    fn a_batch_is_the_padded_list_of_its_images() {
        let normalize = Normalize::new(&[10.0, 20.0, 30.0], &[1.0, 2.0, 3.0], true).unwrap();
        for size_divisible in [0, 1, 8, 32] {
            let samples = || vec![sample(4, 9, 5), sample(2, 3, 17)];
            let alone: Vec<Tensor> = samples().iter().map(|sample| normalize.to_tensor(&sample.image)).collect();
            let want = to_image_list(&alone, size_divisible);
            let got = Collator::Images { normalize: normalize.clone(), size_divisible }.batch(samples());
            assert_eq!(got.images.tensors, want.tensors);
            assert_eq!(got.images.image_sizes, want.image_sizes);
            assert_eq!(got.indices, [4, 2]);
            assert!(got.originals.is_empty() && got.targets.len() == 2);
        }
    }

    #[test]
    fn originals_stay_as_they_are() {
        let got = Collator::Originals.batch(vec![sample(1, 2, 3)]);
        assert_eq!(got.originals, [sample(1, 2, 3).image]);
        assert_eq!(got.images.tensors.size(), [0, 3, 0, 0]);
    }
}
