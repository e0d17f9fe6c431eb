// RoIAlign (He et al., "Mask R-CNN", 2017) in the original's form: no half-pixel shift, a RoI is at least one cell wide
// and high, `sampling_ratio` <= 0 takes ceil(roi size / bins) samples per bin and axis.
//
//   input   [N, C, H, W]  NCHW or channels-last; float32 or float64 on the CPU, float32, float16 or bfloat16 on CUDA
//   rois    [R, 5]        batch index, x1, y1, x2, y2 in image pixels
//   output  [R, C, pooled_height, pooled_width], memory format of the input
//
// RoIs have the input's type on the CPU and are float32 on CUDA. A RoI that is not finite gives nan, and no gradient;
// on CUDA so does one of an image that is not in the batch, which the CPU reports as an error.
#pragma once

#include <ATen/core/Tensor.h>

namespace mrb {

struct RoiAlignShape {
  int64_t pooled_height;
  int64_t pooled_width;
  double spatial_scale;
  int64_t sampling_ratio;
};

at::Tensor roi_align_forward_cpu(const at::Tensor& input, const at::Tensor& rois, const RoiAlignShape& shape);

// The gradient with respect to the input of size `input_size`, in the memory format of `grad_output`.
at::Tensor roi_align_backward_cpu(const at::Tensor& grad_output, const at::Tensor& rois, at::IntArrayRef input_size,
                                  const RoiAlignShape& shape);

at::Tensor roi_align_forward_cuda(const at::Tensor& input, const at::Tensor& rois, const RoiAlignShape& shape);

// Sums in a fixed order where libtorch's deterministic algorithms are asked for.
at::Tensor roi_align_backward_cuda(const at::Tensor& grad_output, const at::Tensor& rois, at::IntArrayRef input_size,
                                   const RoiAlignShape& shape);

}  // namespace mrb
