// Launch functions of deform_conv_cuda.cu: raw device pointers, no tensor. They return the error of the launch.
//
//   input         [N, C, H, W]              contiguous, of `type`, as everything that is not said to be float32
//   offset        [N, D * 2 * K, Ho, Wo]    K = kh * kw kernel positions, D deformable groups
//   mask          [N, D * K, Ho, Wo]        null for version 1
//   columns       [C * K, N, Ho * Wo]       what a matrix product multiplies with the weight [O, C * K]
//   grad_columns                            as columns
//   grad_input    [N, C, H, W]              float32, added to
//   grad_offset                             as offset, written
//   grad_mask                               as mask, written; null for version 1
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "api.h"
#include "cuda/scalar_type.h"

extern "C" {

// N, C, H, W of the images of one product, kh, kw, Ho, Wo, and how the kernel moves.
struct mrb_cuda_deform_conv_shape {
  int64_t images, channels, height, width;
  int64_t kernel_h, kernel_w;
  int64_t out_height, out_width;
  mrb_deform_conv_geometry geometry;
};

cudaError_t mrb_cuda_deform_conv_columns(const void* input, const void* offset, const void* mask,
                                         const mrb_cuda_deform_conv_shape* shape, mrb_scalar_type type,
                                         void* columns, cudaStream_t stream);

cudaError_t mrb_cuda_deform_conv_backward_input(const void* grad_columns, const void* offset, const void* mask,
                                                const mrb_cuda_deform_conv_shape* shape, mrb_scalar_type type,
                                                float* grad_input, cudaStream_t stream);

cudaError_t mrb_cuda_deform_conv_backward_offset(const void* grad_columns, const void* input, const void* offset,
                                                 const void* mask, const mrb_cuda_deform_conv_shape* shape,
                                                 mrb_scalar_type type, void* grad_offset, void* grad_mask,
                                                 cudaStream_t stream);

}  // extern "C"
