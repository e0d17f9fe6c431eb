//! Pillow's bilinear resize (`Resample.c` of Pillow 9.5), bit for bit: a triangle filter whose support grows when
//! shrinking, 22-bit fixed-point coefficients, the horizontal pass first, rounded to 8 bits between the passes.

use super::RgbImage;

const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Values that the vertical pass sums at a time: few enough to stay in registers.
const BLOCK: usize = 64;

/// What one output position takes from the input: `coefficients[offset..][..count]` times the pixels from `first` on.
struct Window {
    first: usize,
    offset: usize,
    count: usize,
}

struct Filter {
    windows: Vec<Window>,
    coefficients: Vec<i32>,
}

impl Filter {
    fn bilinear(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let support = scale.max(1.0);
        let mut windows = Vec::with_capacity(output);
        let mut coefficients = Vec::new();
        let mut weights = Vec::new();
        for position in 0..output {
            let center = (position as f64 + 0.5) * scale;
            let first = ((center - support + 0.5) as i64).max(0) as usize;
            let last = ((center + support + 0.5) as i64).min(input as i64) as usize;
            weights.clear();
            weights.extend((first..last).map(|x| triangle((x as f64 - center + 0.5) * (1.0 / support))));
            let total: f64 = weights.iter().sum();
            windows.push(Window { first, offset: coefficients.len(), count: weights.len() });
            coefficients.extend(weights.iter().map(|weight| {
                let weight = if total == 0.0 { *weight } else { weight / total };
                (0.5 + weight * f64::from(1 << PRECISION_BITS)) as i32
            }));
        }
        Self { windows, coefficients }
    }

    fn of(&self, window: &Window) -> &[i32] {
        &self.coefficients[window.offset..][..window.count]
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The image at another size, `(width, height)`.
///
/// # Panics
/// If a side of the new size is zero.
pub fn resize(image: &RgbImage, (width, height): (usize, usize)) -> RgbImage {
    assert!(width > 0 && height > 0, "cannot resize an image to {width}x{height}");
    let wide = if width == image.width { None } else { Some(horizontal(image, width)) };
    let wide = wide.as_ref().unwrap_or(image);
    if height == wide.height {
        wide.clone()
    } else {
        vertical(wide, height)
    }
}

fn horizontal(image: &RgbImage, width: usize) -> RgbImage {
    let filter = Filter::bilinear(image.width, width);
    let mut data = vec![0; width * image.height * 3];
    let rows = image.data.chunks_exact(image.width * 3).zip(data.chunks_exact_mut(width * 3));
    for (source, target) in rows {
        for (window, pixel) in filter.windows.iter().zip(target.chunks_exact_mut(3)) {
            let (mut red, mut green, mut blue) = (HALF, HALF, HALF);
            let pixels = source[window.first * 3..(window.first + window.count) * 3].chunks_exact(3);
            for (from, &coefficient) in pixels.zip(filter.of(window)) {
                red += i32::from(from[0]) * coefficient;
                green += i32::from(from[1]) * coefficient;
                blue += i32::from(from[2]) * coefficient;
            }
            pixel.copy_from_slice(&[red, green, blue].map(rounded));
        }
    }
    RgbImage::new(width, image.height, data)
}

fn vertical(image: &RgbImage, height: usize) -> RgbImage {
    let filter = Filter::bilinear(image.height, height);
    let stride = image.width * 3;
    let mut data = vec![0; stride * height];
    for (window, target) in filter.windows.iter().zip(data.chunks_exact_mut(stride)) {
        let source = &image.data[window.first * stride..(window.first + window.count) * stride];
        for (block, target) in target.chunks_mut(BLOCK).enumerate() {
            let mut sums = [HALF; BLOCK];
            for (row, &coefficient) in source.chunks_exact(stride).zip(filter.of(window)) {
                let row = &row[block * BLOCK..][..target.len()];
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * coefficient;
                }
            }
            for (to, sum) in target.iter_mut().zip(sums) {
                *to = rounded(sum);
            }
        }
    }
    RgbImage::new(image.width, height, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_image_stays_flat() {
        for size in [(1, 1), (3, 50), (40, 7), (200, 130)] {
            let image = RgbImage::new(31, 17, [7, 130, 255].repeat(31 * 17));
            assert_eq!(resize(&image, size).data, [7, 130, 255].repeat(size.0 * size.1));
        }
    }

    #[test]
    fn halving_averages_with_a_triangle() {
        // Support 2 around each centre: weights 0.75/1.75.. at the border, 1/8, 3/8, 3/8, 1/8 inside.
        let image = RgbImage::new(6, 1, [0, 0, 80, 80, 0, 0].iter().flat_map(|&v| [v; 3]).collect());
        assert_eq!(resize(&image, (3, 1)).data[3], 60);
    }
}
