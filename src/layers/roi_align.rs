use tch::Tensor;

use super::precision::full_precision_on_cpu;
use crate::ffi;

/// RoIAlign (He et al., *Mask R-CNN*, 2017; the original's `layers/roi_align.py`), differentiable in `input`.
///
/// Coordinates are scaled by `spatial_scale` without a half-pixel shift, and a RoI is at least one cell wide and high.
/// `sampling_ratio` is the number of samples per bin and axis; with 0 or less it is the RoI's size over the number of
/// bins, rounded up. A RoI that is not finite gives nan.
///
/// A RoI of an image that is not in the batch is an error on the CPU. On CUDA it gives nan and no gradient, as one that
/// is not finite does: to know of it, the program would have to wait for the GPU in every call.
///
/// # Shapes
/// - `input`: `[N, C, H, W]`, float or double; the output has its memory format. Half and bfloat16 are summed up in
///   float32; the output has their type on CUDA and is float32 on the CPU
/// - `rois`: `[R, 5]`: batch index, x1, y1, x2, y2 in image pixels
/// - `output_size`: (height, width); output: `[R, C, height, width]`
pub fn roi_align(
    input: &Tensor,
    rois: &Tensor,
    output_size: (i64, i64),
    spatial_scale: f64,
    sampling_ratio: i64,
) -> Tensor {
    let input = full_precision_on_cpu(input);
    ffi::roi_align(&[input], &[spatial_scale], rois, None, output_size, sampling_ratio).expect("roi_align")
}

/// [`roi_align`] over the levels of a pyramid at once, each RoI from its level: one kernel, which waits for nothing.
///
/// # Shapes
/// - `inputs`: one `[N, C, H, W]` per level, of the same batch, channels and type, with its scale in `spatial_scales`
/// - `rois`: `[R, 5]`; `levels`: `[R]` int64. A RoI whose level does not exist gives zeros
/// - output: `[R, C, height, width]` in the order of the RoIs, with the memory format of the first input
pub fn multi_scale_roi_align(
    inputs: &[Tensor],
    rois: &Tensor,
    levels: &Tensor,
    output_size: (i64, i64),
    spatial_scales: &[f64],
    sampling_ratio: i64,
) -> Tensor {
    let inputs: Vec<Tensor> = inputs.iter().map(full_precision_on_cpu).collect();
    ffi::roi_align(&inputs, spatial_scales, rois, Some(levels), output_size, sampling_ratio).expect("roi_align")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::{Device, Kind};

    use super::*;
    use crate::layers::gradcheck::{gradcheck, random};
    use crate::utils::testing::with_one_and_two_threads;

    /// The definition, one number after the other.
    fn reference(input: &Tensor, rois: &Tensor, (ph, pw): (i64, i64), scale: f64, ratio: i64) -> Tensor {
        let (_, channels, height, width) = input.size4().unwrap();
        let count = rois.size()[0];
        let interpolate = |n: i64, c: i64, y: f64, x: f64| {
            if y < -1.0 || y > height as f64 || x < -1.0 || x > width as f64 {
                return 0.0;
            }
            let (y, x) = (y.clamp(0.0, height as f64 - 1.0), x.clamp(0.0, width as f64 - 1.0));
            let mut sum = 0.0;
            for (row, wy) in [(y.floor(), 1.0 - y.fract()), (y.floor() + 1.0, y.fract())] {
                for (column, wx) in [(x.floor(), 1.0 - x.fract()), (x.floor() + 1.0, x.fract())] {
                    if wy * wx > 0.0 {
                        sum += wy * wx * input.double_value(&[n, c, row as i64, column as i64]);
                    }
                }
            }
            sum
        };
        let output = Tensor::zeros([count, channels, ph, pw], (Kind::Double, Device::Cpu));
        for i in 0..count * channels * ph * pw {
            let (r, c, bin_y, bin_x) = (i / (channels * ph * pw), i / (ph * pw) % channels, i / pw % ph, i % pw);
            let at = |k: i64| rois.double_value(&[r, k]);
            let (x1, y1) = (at(1) * scale, at(2) * scale);
            let (w, h) = ((at(3) * scale - x1).max(1.0), (at(4) * scale - y1).max(1.0));
            let samples = |length: f64, bins: i64| if ratio > 0 { ratio } else { (length / bins as f64).ceil() as i64 };
            let (sy, sx) = (samples(h, ph), samples(w, pw));
            let mut sum = 0.0;
            for s in 0..sy * sx {
                let point = |start: f64, length: f64, bins: i64, bin: i64, k: i64, n: i64| {
                    start + (bin as f64 + (k as f64 + 0.5) / n as f64) * length / bins as f64
                };
                let y = point(y1, h, ph, bin_y, s / sx, sy);
                sum += interpolate(at(0) as i64, c, y, point(x1, w, pw, bin_x, s % sx, sx));
            }
            let _ = output.view(-1).get(i).fill_(sum / (sy * sx) as f64);
        }
        output
    }

    fn boxes(count: i64, images: i64, extent: f64, seed: u64) -> Tensor {
        let corners = random(&[count, 4], seed) * extent + 0.25 * extent;
        let image = ((random(&[count, 1], seed + 1) + 1.0) * (0.4999 * images as f64)).floor();
        Tensor::cat(&[image, corners], 1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn equals_its_definition(
            seed in 0u64..1000, images in 1i64..3, channels in 1i64..7, height in 1i64..9, width in 1i64..9,
            ph in 1i64..4, pw in 1i64..4, ratio in 0i64..4, scale in 0.1f64..1.0,
        ) {
            let input = random(&[images, channels, height, width], seed);
            let rois = boxes(4, images, 10.0 / scale, seed + 1);
            let want = reference(&input, &rois, (ph, pw), scale, ratio);
            for input in [input.shallow_clone(), crate::ffi::channels_last(&input)] {
                let got = roi_align(&input, &rois, (ph, pw), scale, ratio);
                prop_assert!((got - &want).abs().max().double_value(&[]) < 1e-9);
            }
        }
    }

    #[test]
    fn gradient_equals_finite_differences() {
        let rois = boxes(5, 2, 12.0, 5);
        for ratio in [0, 2] {
            gradcheck(|t| roi_align(&t[0], &rois, (2, 3), 0.7, ratio), &[&random(&[2, 3, 6, 7], 4)]);
        }
    }

    #[test]
    fn threads_do_not_change_the_values() {
        let rois = boxes(64, 1, 100.0, 9).to_kind(Kind::Float);
        let run = || {
            let input = random(&[1, 40, 25, 30], 8).to_kind(Kind::Float).set_requires_grad(true);
            let output = roi_align(&input, &rois, (7, 7), 0.25, 2);
            let grads = Tensor::run_backward(&[output.square().sum(Kind::Float)], &[&input], false, false);
            (output.detach(), grads[0].shallow_clone())
        };
        let (one, two) = with_one_and_two_threads(run);
        assert!(one == two);
    }

    #[test]
    fn a_roi_that_is_not_finite_gives_nan_and_a_missing_image_is_an_error() {
        let input = Tensor::ones([1, 2, 4, 4], (Kind::Float, Device::Cpu));
        let rois = Tensor::from_slice2(&[[0.0f32, f32::NAN, 0.0, 3.0, 3.0], [0.0, 0.0, 0.0, 3.0, 3.0]]);
        let output = roi_align(&input, &rois, (2, 2), 1.0, 2);
        assert!(bool::try_from(output.get(0).isnan().all()).unwrap());
        assert!(bool::try_from(output.get(1).isfinite().all()).unwrap());
        let rois = Tensor::from_slice2(&[[1.0f32, 0.0, 0.0, 3.0, 3.0]]);
        let error = ffi::roi_align(&[input], &[1.0], &rois, None, (2, 2), 2).unwrap_err();
        assert!(error.to_string().contains("RoI of image 1 in a batch of 1"), "{error}");
    }

    /// Two maps of two images, the second half as large, and RoIs of the levels 0, 1 and of one that is not there.
    fn pyramid() -> (Vec<Tensor>, Tensor, Tensor) {
        let maps = vec![random(&[2, 3, 12, 14], 21), random(&[2, 3, 6, 7], 22)];
        (maps, boxes(9, 2, 12.0, 23), Tensor::from_slice(&[0i64, 1, 1, 0, 2, 0, 1, -1, 0]))
    }

    #[test]
    fn every_roi_of_a_pyramid_comes_from_its_level() {
        let (maps, rois, levels) = pyramid();
        let scales = [0.5, 0.25];
        for maps in [maps.iter().map(Tensor::shallow_clone).collect(), maps.iter().map(ffi::channels_last).collect()] {
            let maps: Vec<Tensor> = maps;
            let together = multi_scale_roi_align(&maps, &rois, &levels, (3, 2), &scales, 2);
            assert_eq!(ffi::is_channels_last(&together), ffi::is_channels_last(&maps[0]));
            for (r, level) in (0..).zip(Vec::<i64>::try_from(&levels).unwrap()) {
                let want = match usize::try_from(level).ok().filter(|level| *level < maps.len()) {
                    Some(level) => roi_align(&maps[level], &rois.narrow(0, r, 1), (3, 2), scales[level], 2),
                    None => Tensor::zeros([1, 3, 3, 2], (Kind::Double, Device::Cpu)),
                };
                assert!(together.narrow(0, r, 1) == want, "RoI {r}");
            }
        }
    }

    #[test]
    fn every_level_has_its_gradient() {
        let (maps, rois, levels) = pyramid();
        let operator = |t: &[Tensor]| multi_scale_roi_align(t, &rois, &levels, (2, 3), &[0.5, 0.25], 0);
        gradcheck(operator, &[&maps[0], &maps[1]]);
    }

    #[test]
    fn maps_that_do_not_belong_together_are_an_error() {
        let (maps, rois, levels) = pyramid();
        let error = |maps: &[Tensor], levels: Option<&Tensor>| {
            ffi::roi_align(maps, &vec![1.0; maps.len()], &rois, levels, (2, 2), 2).unwrap_err().to_string()
        };
        assert!(error(&maps, None).contains("no level for each RoI"));
        assert!(error(&maps, Some(&levels.narrow(0, 0, 3))).contains("levels of shape [3]"));
        assert!(error(&[maps[0].shallow_clone(), maps[1].narrow(1, 0, 2)], Some(&levels)).contains("channels"));
        assert!(error(&[], Some(&levels)).contains("no map"));
    }
}
