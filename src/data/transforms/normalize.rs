use anyhow::{ensure, Result};
use tch::Tensor;

use super::RgbImage;
use crate::config::Config;

/// `ToTensor` and `Normalize` of the original: bytes to floats, channels reversed and scaled to 255 where asked for,
/// then mean and standard deviation; computed by table, since a byte has 256 values.
#[derive(Clone, Debug)]
pub struct Normalize {
    tables: [Vec<f32>; 3],
    to_bgr255: bool,
}

impl Normalize {
    /// # Errors
    /// If there are not three means and three standard deviations, or a deviation is zero.
    pub fn new(mean: &[f64], std: &[f64], to_bgr255: bool) -> Result<Self> {
        ensure!(mean.len() == 3, "INPUT.PIXEL_MEAN must have 3 values, one a channel, but has {}", mean.len());
        ensure!(std.len() == 3, "INPUT.PIXEL_STD must have 3 values, one a channel, but has {}", std.len());
        ensure!(std.iter().all(|&std| std as f32 != 0.0), "INPUT.PIXEL_STD must not have a zero: {std:?}");
        let scale = if to_bgr255 { 255.0 } else { 1.0 };
        let table = |channel: usize| {
            let (mean, std) = (mean[channel] as f32, std[channel] as f32);
            (0..=255u8).map(|value| (f32::from(value) / 255.0 * scale - mean) / std).collect()
        };
        Ok(Self { tables: [table(0), table(1), table(2)], to_bgr255 })
    }

    /// With `INPUT.PIXEL_MEAN`, `INPUT.PIXEL_STD` and `INPUT.TO_BGR255`.
    ///
    /// # Errors
    /// As [`Normalize::new`].
    pub fn from_config(cfg: &Config) -> Result<Self> {
        Self::new(&cfg.input.pixel_mean, &cfg.input.pixel_std, cfg.input.to_bgr255)
    }

    /// Writes the image into the top left corner of three planes of `height × width` values.
    ///
    /// # Panics
    /// If the image is larger than the planes, or `planes` has not 3 × height × width values.
    pub fn write(&self, image: &RgbImage, planes: &mut [f32], (height, width): (usize, usize)) {
        assert!(image.width <= width && image.height <= height, "an image does not fit its batch");
        assert_eq!(planes.len(), 3 * height * width, "three planes of {height}x{width}");
        for ((channel, plane), table) in planes.chunks_exact_mut((height * width).max(1)).enumerate().zip(&self.tables)
        {
            let source = if self.to_bgr255 { 2 - channel } else { channel };
            let rows = image.data.chunks_exact(image.width * 3).zip(plane.chunks_exact_mut(width));
            for (from, to) in rows {
                for (pixel, value) in from.chunks_exact(3).zip(to) {
                    *value = table[usize::from(pixel[source])];
                }
            }
        }
    }

    /// One image as a tensor.
    ///
    /// # Shapes
    /// Gives float32 `[3, height, width]`.
    pub fn to_tensor(&self, image: &RgbImage) -> Tensor {
        let mut planes = vec![0.0; image.data.len()];
        self.write(image, &mut planes, (image.height, image.width));
        Tensor::from_slice(&planes).view([3, image.height as i64, image.width as i64])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_reversed_only_when_asked_for() {
        let image = RgbImage::new(1, 1, vec![255, 51, 0]);
        let values = |normalize: Normalize| Vec::<f32>::try_from(normalize.to_tensor(&image).flatten(0, -1)).unwrap();
        let bgr = Normalize::new(&[1.0, 2.0, 3.0], &[1.0, 1.0, 2.0], true).unwrap();
        assert_eq!(values(bgr), [-1.0, 49.0, 126.0]);
        let rgb = Normalize::new(&[0.0; 3], &[1.0; 3], false).unwrap();
        assert_eq!(values(rgb), [1.0, 0.2, 0.0]);
    }

    #[test]
    fn wrong_statistics_name_their_key() {
        assert!(Normalize::new(&[0.0; 2], &[1.0; 3], true).unwrap_err().to_string().contains("PIXEL_MEAN"));
        assert!(Normalize::new(&[0.0; 3], &[1.0, 0.0, 1.0], true).unwrap_err().to_string().contains("PIXEL_STD"));
    }
}
