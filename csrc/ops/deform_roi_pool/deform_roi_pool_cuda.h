// Launch functions of deform_roi_pool_cuda.cu: raw device pointers, no tensor. They return the error of the launch.
//
//   input       [N, C, H, W]                        contiguous, of `type`; C = output_dim * group_size^2
//   rois        [R, 5]                              float32
//   trans       [R, 2 * classes, part_size, part_size]  of `type`; null: no offsets, and `classes` is 1
//   output      [R, output_dim, size, size]         of `type`; nan for a RoI of an image that does not exist
//   grad_input  [N, C, H, W]                        float32, added to
//   grad_trans                                      as trans, float32, added to; null without offsets
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "api.h"
#include "cuda/scalar_type.h"

extern "C" {

// N, H, W, R, and the classes of the offsets.
struct mrb_cuda_deform_roi_pool_shape {
  int64_t images, height, width;
  int64_t rois, classes;
  mrb_deform_roi_pool_geometry geometry;
};

cudaError_t mrb_cuda_deform_roi_pool_forward(const void* input, const float* rois, const void* trans,
                                             const mrb_cuda_deform_roi_pool_shape* shape, mrb_scalar_type type,
                                             void* output, cudaStream_t stream);

cudaError_t mrb_cuda_deform_roi_pool_backward(const void* grad_output, const void* input, const float* rois,
                                              const void* trans, const mrb_cuda_deform_roi_pool_shape* shape,
                                              mrb_scalar_type type, float* grad_input, float* grad_trans,
                                              cudaStream_t stream);

}  // extern "C"
