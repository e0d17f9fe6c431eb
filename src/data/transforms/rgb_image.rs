//! A decoded picture in plain memory.

use crate::structures::Flip;

/// An 8-bit RGB picture, rows top to bottom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Height × width × 3 bytes.
    pub data: Vec<u8>,
}

impl RgbImage {
    /// # Panics
    /// If `data` has not exactly height × width × 3 bytes.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), width * height * 3, "an RGB image of {width}x{height} has three bytes a pixel");
        Self { width, height, data }
    }

    /// (width, height).
    pub fn size(&self) -> (i64, i64) {
        (self.width as i64, self.height as i64)
    }

    /// The mirrored picture.
    pub fn transpose(self, flip: Flip) -> Self {
        match flip {
            Flip::LeftRight => self.left_right(),
            Flip::TopBottom => self.top_bottom(),
        }
    }

    fn left_right(mut self) -> Self {
        for row in self.data.chunks_exact_mut((self.width * 3).max(1)) {
            let (mut left, mut right) = (0, self.width.saturating_sub(1));
            while left < right {
                for channel in 0..3 {
                    row.swap(left * 3 + channel, right * 3 + channel);
                }
                left += 1;
                right -= 1;
            }
        }
        self
    }

    fn top_bottom(mut self) -> Self {
        let stride = self.width * 3;
        for top in 0..self.height / 2 {
            let (above, below) = self.data.split_at_mut((self.height - 1 - top) * stride);
            above[top * stride..(top + 1) * stride].swap_with_slice(&mut below[..stride]);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image() -> impl Strategy<Value = RgbImage> {
        (1usize..8, 1usize..8).prop_flat_map(|(w, h)| {
            proptest::collection::vec(any::<u8>(), w * h * 3).prop_map(move |data| RgbImage::new(w, h, data))
        })
    }

    proptest! {
        #[test]
        fn flips_move_every_pixel(image in image()) {
            let pixel = |image: &RgbImage, x: usize, y: usize| image.data[(y * image.width + x) * 3..][..3].to_vec();
            let (h, v) = (image.clone().transpose(Flip::LeftRight), image.clone().transpose(Flip::TopBottom));
            for y in 0..image.height {
                for x in 0..image.width {
                    prop_assert_eq!(pixel(&h, image.width - 1 - x, y), pixel(&image, x, y));
                    prop_assert_eq!(pixel(&v, x, image.height - 1 - y), pixel(&image, x, y));
                }
            }
        }
    }
}
