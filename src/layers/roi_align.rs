use tch::Tensor;

use crate::ffi;

/// RoIAlign (He et al., *Mask R-CNN*, 2017; the original's `layers/roi_align.py`), differentiable in `input`.
///
/// Coordinates are scaled by `spatial_scale` without a half-pixel shift, and a RoI is at least one cell wide and high.
/// `sampling_ratio` is the number of samples per bin and axis; with 0 or less it is the RoI's size over the number of
/// bins, rounded up. A RoI that is not finite gives nan.
///
/// # Shapes
/// - `input`: `[N, C, H, W]`, float or double; the output has its memory format
/// - `rois`: `[R, 5]`: batch index, x1, y1, x2, y2 in image pixels
/// - `output_size`: (height, width); output: `[R, C, height, width]`
pub fn roi_align(
    input: &Tensor,
    rois: &Tensor,
    output_size: (i64, i64),
    spatial_scale: f64,
    sampling_ratio: i64,
) -> Tensor {
    ffi::roi_align(input, rois, output_size, spatial_scale, sampling_ratio).expect("roi_align")
}
