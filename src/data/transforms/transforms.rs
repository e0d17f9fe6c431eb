use anyhow::{bail, ensure, Result};

use super::{adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, resize, RgbImage, TransformRng};
use crate::config::Config;
use crate::structures::{BoxList, Flip};

/// One step between the decoded image and the network's input.
pub trait Transform: Send + Sync {
    /// Changes the image and, where there is one, its target with it.
    ///
    /// # Errors
    /// If the step cannot be applied to this image or target.
    fn apply(
        &self,
        image: RgbImage,
        target: Option<BoxList>,
        rng: &mut TransformRng,
    ) -> Result<(RgbImage, Option<BoxList>)>;
}

/// Several transforms one after the other.
#[derive(Default)]
pub struct Compose(pub Vec<Box<dyn Transform>>);

impl Transform for Compose {
    fn apply(
        &self,
        mut image: RgbImage,
        mut target: Option<BoxList>,
        rng: &mut TransformRng,
    ) -> Result<(RgbImage, Option<BoxList>)> {
        for transform in &self.0 {
            (image, target) = transform.apply(image, target, rng)?;
        }
        Ok((image, target))
    }
}

/// Resizes so that the shorter side has a size drawn from a list and the longer side at most a limit.
#[derive(Clone, Debug)]
pub struct Resize {
    min_sizes: Vec<i64>,
    max_size: Option<i64>,
}

impl Resize {
    /// # Errors
    /// If there is no size to draw from, or a size is not positive.
    pub fn new(min_sizes: Vec<i64>, max_size: Option<i64>) -> Result<Self> {
        Self::of_keys(("the shorter side", min_sizes), ("the longer side", max_size))
    }

    /// With `INPUT.MIN_SIZE_TRAIN` and `INPUT.MAX_SIZE_TRAIN`, or with `INPUT.MIN_SIZE_TEST` and `INPUT.MAX_SIZE_TEST`.
    ///
    /// # Errors
    /// As [`Resize::new`]; names the key.
    pub fn from_config(cfg: &Config, is_train: bool) -> Result<Self> {
        let input = &cfg.input;
        if is_train {
            let min_sizes = ("INPUT.MIN_SIZE_TRAIN", input.min_size_train.to_vec());
            Self::of_keys(min_sizes, ("INPUT.MAX_SIZE_TRAIN", Some(input.max_size_train)))
        } else {
            let min_sizes = ("INPUT.MIN_SIZE_TEST", vec![input.min_size_test]);
            Self::of_keys(min_sizes, ("INPUT.MAX_SIZE_TEST", Some(input.max_size_test)))
        }
    }

    /// [`Resize::new`] with sizes that come from these keys, which its errors name.
    pub(crate) fn of_keys(
        (min_key, min_sizes): (&str, Vec<i64>),
        (max_key, max_size): (&str, Option<i64>),
    ) -> Result<Self> {
        ensure!(!min_sizes.is_empty(), "{min_key}: there is no size to resize images to");
        let of_key = |key| move |size| (key, size);
        let mut sizes = min_sizes.iter().map(of_key(min_key)).chain(max_size.iter().map(of_key(max_key)));
        if let Some((key, size)) = sizes.find(|(_, size)| **size <= 0) {
            bail!("{key}: images cannot be resized to {size} pixels");
        }
        Ok(Self { min_sizes, max_size })
    }

    /// The new (height, width) of an image of (width, height) whose shorter side should become `size`. Rounding may
    /// leave the longer side a pixel off the limit.
    pub fn get_size(&self, (width, height): (i64, i64), size: i64) -> (i64, i64) {
        let (short, long) = (width.min(height) as f64, width.max(height) as f64);
        let size = match self.max_size {
            Some(max) if long / short * size as f64 > max as f64 => {
                ((max as f64 * short / long).round_ties_even() as i64).max(1)
            }
            _ => size,
        };
        if short as i64 == size {
            return (height, width);
        }
        let other = |numerator: i64, denominator: i64| (size * numerator) as f64 / denominator as f64;
        if width < height {
            (other(height, width) as i64, size)
        } else {
            (size, other(width, height) as i64)
        }
    }
}

impl Transform for Resize {
    /// Draws from the list even if it has one entry, as the original does.
    fn apply(
        &self,
        image: RgbImage,
        target: Option<BoxList>,
        rng: &mut TransformRng,
    ) -> Result<(RgbImage, Option<BoxList>)> {
        let size = *rng.python.choice(&self.min_sizes);
        let (height, width) = self.get_size(image.size(), size);
        let image = resize(&image, (width as usize, height as usize));
        let target = target.map(|target| target.resize(image.size())).transpose()?;
        Ok((image, target))
    }
}

/// Mirrors with a probability: the original's `RandomHorizontalFlip` and `RandomVerticalFlip`.
#[derive(Clone, Debug)]
pub struct RandomFlip {
    flip: Flip,
    probability: f64,
}

impl RandomFlip {
    /// Mirrors in this direction with this probability, 0 to 1.
    pub fn new(flip: Flip, probability: f64) -> Self {
        Self { flip, probability }
    }
}

impl Transform for RandomFlip {
    /// # Errors
    /// If the flip is top-bottom and the target has keypoints: their names have no top-bottom counterparts.
    fn apply(
        &self,
        image: RgbImage,
        target: Option<BoxList>,
        rng: &mut TransformRng,
    ) -> Result<(RgbImage, Option<BoxList>)> {
        if rng.python.random() >= self.probability {
            return Ok((image, target));
        }
        let target = target.map(|target| target.transpose(self.flip)).transpose()?;
        Ok((image.transpose(self.flip), target))
    }
}

/// torchvision's `ColorJitter`: brightness, contrast, saturation and hue by random factors, in random order.
#[derive(Clone, Debug)]
pub struct ColorJitter {
    /// The range of each factor, in the order above; `None` where the strength is zero.
    ranges: [Option<(f32, f32)>; 4],
}

impl ColorJitter {
    /// Factors are drawn from [max(0, 1 - strength), 1 + strength], the hue's from [-hue, hue].
    ///
    /// # Errors
    /// If a strength is negative, or the hue's is over 0.5.
    pub fn new(brightness: f64, contrast: f64, saturation: f64, hue: f64) -> Result<Self> {
        let around_one = |name: &str, strength: f64| {
            ensure!(strength >= 0.0, "the strength of the {name} jitter is {strength}, but cannot be negative");
            Ok((strength > 0.0).then(|| ((1.0 - strength).max(0.0) as f32, (1.0 + strength) as f32)))
        };
        ensure!((0.0..=0.5).contains(&hue), "the strength of the hue jitter is {hue}, but must lie between 0 and 0.5");
        Ok(Self {
            ranges: [
                around_one("brightness", brightness)?,
                around_one("contrast", contrast)?,
                around_one("saturation", saturation)?,
                (hue > 0.0).then_some((-hue as f32, hue as f32)),
            ],
        })
    }

    /// The order of the four operations and the factor of each: drawn even where every strength is zero.
    pub fn draw(&self, rng: &mut TransformRng) -> (Vec<usize>, [Option<f64>; 4]) {
        let order = rng.torch.randperm(4);
        let factors = self.ranges.map(|range| range.map(|(from, to)| f64::from(rng.torch.uniform(from, to))));
        (order, factors)
    }
}

impl Transform for ColorJitter {
    fn apply(
        &self,
        mut image: RgbImage,
        target: Option<BoxList>,
        rng: &mut TransformRng,
    ) -> Result<(RgbImage, Option<BoxList>)> {
        const OPERATIONS: [fn(RgbImage, f64) -> RgbImage; 4] =
            [adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue];
        let (order, factors) = self.draw(rng);
        for operation in order {
            if let Some(factor) = factors[operation] {
                image = OPERATIONS[operation](image, factor);
            }
        }
        Ok((image, target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_size_is_zero_and_the_limit_holds(w in 1i64..3000, h in 1i64..3000, size in 1i64..1200, max in 1i64..2000) {
            let (height, width) = Resize::new(vec![size], Some(max)).unwrap().get_size((w, h), size);
            prop_assert!(height >= 1 && width >= 1);
            if w.max(h) < 100 * w.min(h) {
                prop_assert!(height.max(width) <= max.max(1) + w.max(h) / w.min(h) + 1);
            }
        }
    }

    #[test]
    fn strengths_and_sizes_are_checked() {
        assert!(ColorJitter::new(0.4, 0.0, 1.5, 0.5).is_ok());
        assert!(ColorJitter::new(-0.1, 0.0, 0.0, 0.0).unwrap_err().to_string().contains("brightness"));
        assert!(ColorJitter::new(0.0, 0.0, 0.0, 0.6).unwrap_err().to_string().contains("hue"));
        assert!(Resize::new(vec![], None).is_err());
        assert!(Resize::new(vec![800], Some(0)).is_err());
    }
}
