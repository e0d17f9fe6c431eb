//! From the samples of a batch to the network's input (the original's `collate_batch.py`).

use anyhow::{Context, Result};
use tch::Tensor;

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
    /// With `TEST.BBOX_AUG.ENABLED`, the images as read, which test-time augmentation transforms itself; `images` is
    /// then an empty `[0, 3, 0, 0]`. Otherwise empty.
    pub originals: Vec<RgbImage>,
}

/// Makes a batch of samples.
#[derive(Clone, Debug)]
pub enum Collator {
    /// Normalises the images and pads them to the largest height and width, rounded up to a multiple of
    /// `size_divisible` where that is positive.
    Images {
        /// Means and deviations of the channels.
        normalize: Normalize,
        /// Height and width become multiples of it; 0 for any size.
        size_divisible: i64,
        /// The number of the CUDA device, which is open, that the batches are for: images are written straight into
        /// pinned memory, from which they go there without another copy.
        pinned_for: Option<usize>,
    },
    /// Leaves the images as they are: the original's `BBoxAugCollator`.
    Originals,
}

impl Collator {
    /// The batch of these samples.
    ///
    /// # Errors
    /// No memory could be pinned.
    pub fn batch(&self, samples: Vec<Sample>) -> Result<Batch> {
        let (mut targets, mut indices, mut originals) = (Vec::new(), Vec::new(), Vec::new());
        for sample in samples {
            targets.push(sample.target);
            indices.push(sample.index);
            originals.push(sample.image);
        }
        let images = match self {
            Self::Images { normalize, size_divisible, pinned_for } => {
                let images = std::mem::take(&mut originals);
                let tensors = padded(&images, normalize, *size_divisible, *pinned_for)?;
                let image_sizes = images.iter().map(|image| (image.height as i64, image.width as i64)).collect();
                ImageList { tensors, image_sizes }
            }
            Self::Originals => {
                ImageList { tensors: ffi::tensor_of(Vec::new(), &[0, 3, 0, 0])?, image_sizes: Vec::new() }
            }
        };
        Ok(Batch { images, targets, indices, originals })
    }
}

/// The normalised images in the top left corners of a tensor of zeros. No operator of libtorch is used, whose threads
/// would come in addition to the loader's.
fn padded(
    images: &[RgbImage],
    normalize: &Normalize,
    size_divisible: i64,
    pinned_for: Option<usize>,
) -> Result<Tensor> {
    let divisible = usize::try_from(size_divisible).unwrap_or(0).max(1);
    let largest = |side: fn(&RgbImage) -> usize| images.iter().map(side).max().unwrap_or(0);
    let [height, width] =
        [largest(|image| image.height), largest(|image| image.width)].map(|side| side.next_multiple_of(divisible));
    let size = 3 * height * width;
    let shape = [images.len(), 3, height, width].map(|side| side as i64);
    let write = |values: &mut [f32]| {
        for (image, planes) in images.iter().zip(values.chunks_exact_mut(size.max(1))) {
            normalize.write(image, planes, (height, width));
        }
    };
    if let Some(index) = pinned_for {
        return ffi::pinned_tensor(&shape, index, write).context("pinning memory for a batch");
    }
    let mut values = vec![0.0; images.len() * size];
    write(&mut values);
    ffi::tensor_of(values, &shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structures::{to_image_list, Mode};
    use tch::{Device, Kind};

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
            let collator = Collator::Images { normalize: normalize.clone(), size_divisible, pinned_for: None };
            let got = collator.batch(samples()).unwrap();
            assert_eq!(got.images.tensors, want.tensors);
            assert_eq!(got.images.image_sizes, want.image_sizes);
            assert_eq!(got.indices, [4, 2]);
            assert!(got.originals.is_empty() && got.targets.len() == 2);
        }
    }

    #[test]
    fn originals_stay_as_they_are() {
        let got = Collator::Originals.batch(vec![sample(1, 2, 3)]).unwrap();
        assert_eq!(got.originals, [sample(1, 2, 3).image]);
        assert_eq!(got.images.tensors.size(), [0, 3, 0, 0]);
    }
}
