// RoIPool (Girshick, "Fast R-CNN", 2015; the original's ROIPool_cuda.cu): corners rounded half away from zero,
// inclusive widths, bins between floor and ceil clipped to the map, the maximum of each; an empty bin gives 0.
//
//   input   [N, C, H, W]  NCHW or channels-last; float32 or float64 on the CPU, float32, float16 or bfloat16 on CUDA
//   rois    [R, 5]        batch index, x1, y1, x2, y2 in image pixels
//   output  [R, C, pooled_height, pooled_width], memory format of the input
//   argmax  int32, y * W + x of the maximum, -1 where there is none: [R, pooled_height, pooled_width, C] on the CPU,
//           like the output on CUDA
//
// RoIs have the input's type on the CPU and are float32 on CUDA. A RoI that is not finite gives nan, and no gradient;
// on CUDA so does one of an image that is not in the batch, which the CPU reports as an error.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace mrb {

struct RoiPoolShape {
  int64_t pooled_height;
  int64_t pooled_width;
  double spatial_scale;
};

std::tuple<at::Tensor, at::Tensor> roi_pool_forward_cpu(const at::Tensor& input, const at::Tensor& rois,
                                                        const RoiPoolShape& shape);

at::Tensor roi_pool_backward_cpu(const at::Tensor& grad_output, const at::Tensor& argmax, const at::Tensor& rois,
                                 at::IntArrayRef input_size, const RoiPoolShape& shape);

std::tuple<at::Tensor, at::Tensor> roi_pool_forward_cuda(const at::Tensor& input, const at::Tensor& rois,
                                                         const RoiPoolShape& shape);

// Sums in a fixed order where libtorch's deterministic algorithms are asked for.
at::Tensor roi_pool_backward_cuda(const at::Tensor& grad_output, const at::Tensor& argmax, const at::Tensor& rois,
                                  at::IntArrayRef input_size, const RoiPoolShape& shape);

}  // namespace mrb
