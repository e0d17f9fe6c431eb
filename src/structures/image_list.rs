//! Images of several sizes in one tensor (the original's `structures/image_list.py`).

use tch::{Device, Tensor};

use super::to_device;

/// A batch of images, padded with zeros on the right and at the bottom to one size.
#[derive(Debug)]
pub struct ImageList {
    /// The padded images, `[N, C, H, W]`.
    pub tensors: Tensor,
    /// `(height, width)` of every image before padding.
    pub image_sizes: Vec<(i64, i64)>,
}

impl ImageList {
    /// A batch whose images all have the size of the tensor: what the original's `to_image_list` makes of one. For
    /// users who have such a tensor; the loaders pad images of several sizes.
    ///
    /// # Shapes
    /// `tensors`: `[N, C, H, W]`, or `[C, H, W]` for a single image.
    pub fn from_batch(tensors: Tensor) -> ImageList {
        let tensors = if tensors.dim() == 3 { tensors.unsqueeze(0) } else { tensors };
        let (number, _, height, width) = tensors.size4().expect("images are [N, C, H, W] or [C, H, W]");
        ImageList { tensors, image_sizes: vec![(height, width); number as usize] }
    }

    /// The same batch on `device`.
    pub fn to_device(&self, device: Device) -> ImageList {
        ImageList { tensors: to_device(&self.tensors, device), image_sizes: self.image_sizes.clone() }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.image_sizes.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.image_sizes.is_empty()
    }
}

/// Pads images to their largest height and width, rounded up to a multiple of `size_divisible` if that is positive
/// (what FPN needs).
///
/// # Shapes
/// Each image: `[C, H, W]`, all of one kind and on one device.
///
/// # Panics
/// If there is no image or one has another number of dimensions.
pub fn to_image_list(images: &[Tensor], size_divisible: i64) -> ImageList {
    let sizes: Vec<(i64, i64, i64)> = images.iter().map(|i| i.size3().expect("an image is [C, H, W]")).collect();
    let largest = |side: fn(&(i64, i64, i64)) -> i64| sizes.iter().map(side).max().expect("at least one image");
    let round_up = |side: i64| match size_divisible {
        d if d > 0 => (side + d - 1) / d * d,
        _ => side,
    };
    let (channels, height, width) = (largest(|s| s.0), round_up(largest(|s| s.1)), round_up(largest(|s| s.2)));
    let options = (images[0].kind(), images[0].device());
    let tensors = Tensor::zeros([images.len() as i64, channels, height, width], options);
    for (i, (image, &(c, h, w))) in images.iter().zip(&sizes).enumerate() {
        tensors.get(i as i64).narrow(0, 0, c).narrow(1, 0, h).narrow(2, 0, w).copy_(image);
    }
    ImageList { tensors, image_sizes: sizes.iter().map(|&(_, h, w)| (h, w)).collect() }
}
