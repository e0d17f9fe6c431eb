// Deformable position-sensitive RoI pooling (Dai et al., "Deformable Convolutional Networks", 2017; the original's
// deform_pool_kernel_cuda.cu, which has no CPU twin there).
//
//   input   [N, output_dim * group_size^2, H, W]  float32 or float64; on CUDA float32, float16 or bfloat16
//   rois    [R, 5]   batch index, x1, y1, x2, y2 in image pixels
//   trans   [R, 2 * classes, part_size, part_size]  x offsets, then y offsets, of each class, in RoI sizes over
//           trans_std; undefined: no offsets
//   output  [R, output_dim, pooled_size, pooled_size]
//
// A bin is the mean of its samples inside the map, 0 where none is.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "api.h"

namespace mrb {

using DeformRoiPoolGeometry = mrb_deform_roi_pool_geometry;

at::Tensor deform_roi_pool_forward_cpu(const at::Tensor& input, const at::Tensor& rois, const at::Tensor& trans,
                                       const DeformRoiPoolGeometry& geometry);

// Gradients of input and trans (undefined without offsets).
std::array<at::Tensor, 2> deform_roi_pool_backward_cpu(const at::Tensor& grad_output, const at::Tensor& input,
                                                       const at::Tensor& rois, const at::Tensor& trans,
                                                       const DeformRoiPoolGeometry& geometry);

// Only in builds with CUDA. `rois` are float32, whatever the input is. A RoI of an image that does not exist gives nan,
// where the CPU's functions give an error.
at::Tensor deform_roi_pool_forward_cuda(const at::Tensor& input, const at::Tensor& rois, const at::Tensor& trans,
                                        const DeformRoiPoolGeometry& geometry);
std::array<at::Tensor, 2> deform_roi_pool_backward_cuda(const at::Tensor& grad_output, const at::Tensor& input,
                                                        const at::Tensor& rois, const at::Tensor& trans,
                                                        const DeformRoiPoolGeometry& geometry);

}  // namespace mrb
