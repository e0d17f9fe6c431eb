// Deformable convolution (Dai et al., "Deformable Convolutional Networks", 2017) and its modulated second version (Zhu
// et al., "Deformable ConvNets v2", 2019); the original's deform_conv_kernel_cuda.cu, which has no CPU twin there.
//
//   input   [N, C, H, W]      float32 or float64, on CUDA float32, float16 or bfloat16; NCHW or channels-last
//   offset  [N, D * 2 * K, Ho, Wo]  K kernel positions row by row, (dy, dx) of each, for each of D deformable groups
//   mask    [N, D * K, Ho, Wo]      undefined for version 1
//   weight  [O, C / groups, kh, kw]
//   output  [N, O, Ho, Wo]    memory format of the input
//
// A sample at or beyond one pixel outside the map is zero.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "api.h"

namespace mrb {

using DeformConvGeometry = mrb_deform_conv_geometry;

at::Tensor deform_conv_forward_cpu(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask,
                                   const at::Tensor& weight, const DeformConvGeometry& geometry);

// Gradients of input, offset, weight, mask; undefined where `wanted` says no.
std::array<at::Tensor, 4> deform_conv_backward_cpu(const at::Tensor& grad_output, const at::Tensor& input,
                                                   const at::Tensor& offset, const at::Tensor& mask,
                                                   const at::Tensor& weight, const DeformConvGeometry& geometry,
                                                   const std::array<bool, 4>& wanted);

// Only in builds with CUDA.
at::Tensor deform_conv_forward_cuda(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask,
                                    const at::Tensor& weight, const DeformConvGeometry& geometry);
std::array<at::Tensor, 4> deform_conv_backward_cuda(const at::Tensor& grad_output, const at::Tensor& input,
                                                    const at::Tensor& offset, const at::Tensor& mask,
                                                    const at::Tensor& weight, const DeformConvGeometry& geometry,
                                                    const std::array<bool, 4>& wanted);

// Height and width of the output.
std::array<int64_t, 2> deform_conv_output_size(const at::Tensor& input, const at::Tensor& weight,
                                               const DeformConvGeometry& geometry);

}  // namespace mrb
