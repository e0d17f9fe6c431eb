//! Brightness, contrast, saturation and hue as torchvision applies them to PIL images (`ImageEnhance`, `Image.blend`
//! and the HSV conversion of Pillow 9.5), bit for bit.

use super::RgbImage;

/// `adjust_brightness`: blends with black.
pub fn adjust_brightness(image: RgbImage, factor: f64) -> RgbImage {
    blend_with_constant(image, 0, factor)
}

/// `adjust_contrast`: blends with the mean grey.
pub fn adjust_contrast(image: RgbImage, factor: f64) -> RgbImage {
    let pixels = (image.width * image.height) as f64;
    let sum: u64 = image.data.chunks_exact(3).map(|pixel| u64::from(gray(pixel))).sum();
    let mean = (sum as f64 / pixels + 0.5) as u8;
    blend_with_constant(image, mean, factor)
}

/// `adjust_saturation`: blends with the grey image.
pub fn adjust_saturation(mut image: RgbImage, factor: f64) -> RgbImage {
    for pixel in image.data.chunks_exact_mut(3) {
        let gray = gray(pixel);
        for value in pixel {
            *value = blend(gray, *value, factor as f32);
        }
    }
    image
}

/// `adjust_hue`: shifts the hue by `factor` of the circle, -0.5 to 0.5, in whole steps of 1/255.
pub fn adjust_hue(mut image: RgbImage, factor: f64) -> RgbImage {
    let shift = (factor * 255.0) as i32 as u8;
    for pixel in image.data.chunks_exact_mut(3) {
        let [h, s, v] = rgb_to_hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&hsv_to_rgb([h.wrapping_add(shift), s, v]));
    }
    image
}

/// Pillow's conversion to mode "L".
fn gray(pixel: &[u8]) -> u8 {
    let sum = u32::from(pixel[0]) * 19595 + u32::from(pixel[1]) * 38470 + u32::from(pixel[2]) * 7471;
    ((sum + 0x8000) >> 16) as u8
}

fn blend_with_constant(mut image: RgbImage, constant: u8, factor: f64) -> RgbImage {
    let mut table = [0; 256];
    for (value, entry) in (0..=255).zip(&mut table) {
        *entry = blend(constant, value, factor as f32);
    }
    for value in &mut image.data {
        *value = table[usize::from(*value)];
    }
    image
}

/// Pillow's `Image.blend` for one value, in its single precision: truncated, clipped outside [0, 1].
fn blend(degenerate: u8, value: u8, alpha: f32) -> u8 {
    let (from, to) = (f32::from(degenerate), f32::from(value));
    // The conversion truncates and saturates.
    (from + alpha * (to - from)) as u8
}

/// Pillow's `rgb2hsv`, with its mixture of single and double precision.
fn rgb_to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let saturation = range / f32::from(max);
    let [rc, gc, bc] = [r, g, b].map(|value| f32::from(max - value) / range);
    let hue = if r == max {
        bc - gc
    } else if g == max {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    // The hue may be negative here.
    let hue = ((f64::from(hue) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max]
}

/// Pillow's `hsv2rgb`.
fn hsv_to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let position = f64::from(h) * 6.0 / 255.0;
    let sector = position.floor();
    let fraction = f64::from((position - sector) as f32);
    let saturation = f64::from((f64::from(s) / 255.0) as f32);
    let value = f64::from(v);
    let [p, q, t] = [saturation, saturation * fraction, saturation * (1.0 - fraction)]
        .map(|part| (value * (1.0 - part)).round() as u8);
    match sector as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn factor_one_changes_nothing(data in proptest::collection::vec(any::<u8>(), 24)) {
            let image = RgbImage::new(4, 2, data);
            for adjust in [adjust_brightness, adjust_contrast, adjust_saturation] {
                prop_assert_eq!(&adjust(image.clone(), 1.0), &image);
            }
        }

        #[test]
        fn factor_zero_gives_the_degenerate_image(data in proptest::collection::vec(any::<u8>(), 24)) {
            let image = RgbImage::new(4, 2, data);
            prop_assert!(adjust_brightness(image.clone(), 0.0).data.iter().all(|&v| v == 0));
            let flat = adjust_contrast(image.clone(), 0.0).data;
            prop_assert!(flat.iter().all(|&v| v == flat[0]));
            let gray = adjust_saturation(image, 0.0).data;
            prop_assert!(gray.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]));
        }
    }

    #[test]
    fn a_third_of_the_circle_rotates_the_colours() {
        let image = RgbImage::new(1, 1, vec![255, 0, 0]);
        assert_eq!(adjust_hue(image, 1.0 / 3.0).data, [0, 255, 0]);
    }
}
