use tch::Tensor;

use super::precision::full_precision_on_cpu;
use crate::ffi;

/// RoIPool (Girshick, *Fast R-CNN*, 2015; the original's `csrc/cuda/ROIPool_cuda.cu`), differentiable in `input`.
///
/// Corners are scaled by `spatial_scale`, then rounded half away from zero; widths are inclusive. An empty bin gives 0,
/// a RoI that is not finite nan.
///
/// A RoI of an image that is not in the batch is an error on the CPU. On CUDA it gives nan and no gradient, as one that
/// is not finite does: to know of it, the program would have to wait for the GPU in every call.
///
/// # Shapes
/// - `input`: `[N, C, H, W]`, float or double; the output has its memory format. Half and bfloat16 stay so on CUDA; on
///   the CPU the output is float32
/// - `rois`: `[R, 5]`: batch index, x1, y1, x2, y2 in image pixels
/// - `output_size`: (height, width); output: `[R, C, height, width]`
pub fn roi_pool(input: &Tensor, rois: &Tensor, output_size: (i64, i64), spatial_scale: f64) -> Tensor {
    ffi::roi_pool(&full_precision_on_cpu(input), rois, output_size, spatial_scale).expect("roi_pool")
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::layers::gradcheck::{gradcheck, random};

    #[test]
    fn gradient_equals_finite_differences_in_both_memory_formats() {
        let rois = Tensor::from_slice2(&[[0.0, 1.2, 0.4, 9.0, 7.7], [1.0, -3.0, 2.0, 4.0, 30.0]]);
        let input = random(&[2, 3, 6, 7], 4);
        gradcheck(|t| roi_pool(&t[0], &rois, (2, 3), 0.7), &[&input]);
        gradcheck(|t| roi_pool(&ffi::channels_last(&t[0]), &rois, (2, 3), 0.7), &[&input]);
    }

    #[test]
    fn bins_outside_the_map_are_zero() {
        let input = random(&[1, 2, 4, 4], 1).to_kind(Kind::Float);
        let rois = Tensor::from_slice2(&[[0.0f32, 10.0, 10.0, 12.0, 12.0]]);
        assert_eq!(roi_pool(&input, &rois, (2, 2), 1.0).abs().sum(Kind::Float).double_value(&[]), 0.0);
    }
}
