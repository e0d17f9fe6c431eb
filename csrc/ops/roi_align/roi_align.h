// RoIAlign (He et al., "Mask R-CNN", 2017) in the original's form: no half-pixel shift, a RoI is at least one cell wide
// and high, `sampling_ratio` <= 0 takes ceil(roi size / bins) samples per bin and axis.
//
//   inputs  n times [N, C, H, W], the levels of a pyramid or a single map: NCHW or channels-last; float32 or float64 on
//           the CPU, float32, float16 or bfloat16 on CUDA
//   rois    [R, 5]        batch index, x1, y1, x2, y2 in image pixels
//   levels  [R]           int64, the map that a RoI is pooled from; undefined: there is one map
//   output  [R, C, pooled_height, pooled_width], memory format of the first map
//
// RoIs have the inputs' type on the CPU and are float32 on CUDA. A RoI that is not finite gives nan, and no gradient;
// on CUDA so does one of an image that is not in the batch, which the CPU reports as an error. A RoI whose level is
// none of the maps gives zeros, as in the original (poolers.py), where that is a box whose area is negative.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace mrb {

struct RoiAlignShape {
  int64_t pooled_height;
  int64_t pooled_width;
  std::vector<double> spatial_scales;  // of each map
  int64_t sampling_ratio;
};

at::Tensor roi_align_forward_cpu(at::TensorList inputs, const at::Tensor& rois, const at::Tensor& levels,
                                 const RoiAlignShape& shape);

// The gradients with respect to the maps, of sizes `input_sizes`, in the memory format of `grad_output`.
std::vector<at::Tensor> roi_align_backward_cpu(const at::Tensor& grad_output, const at::Tensor& rois,
                                               const at::Tensor& levels,
                                               const std::vector<std::vector<int64_t>>& input_sizes,
                                               const RoiAlignShape& shape);

at::Tensor roi_align_forward_cuda(at::TensorList inputs, const at::Tensor& rois, const at::Tensor& levels,
                                  const RoiAlignShape& shape);

// Sums in a fixed order where libtorch's deterministic algorithms are asked for.
std::vector<at::Tensor> roi_align_backward_cuda(const at::Tensor& grad_output, const at::Tensor& rois,
                                                const at::Tensor& levels,
                                                const std::vector<std::vector<int64_t>>& input_sizes,
                                                const RoiAlignShape& shape);

}  // namespace mrb
