// Launch functions of frozen_norm_cuda.cu: raw device pointers, no tensor. They return the error of the launch.
//
// A map is `rows` contiguous rows of `length` values: in NCHW a row has one channel, row modulo `channels`; with
// `channels_last` a row is a pixel and `length` is `channels`.
//
//   x, residual, y, grad_y, grad_x, grad_residual  [rows, length]  of `type`
//   scale, shift                                   [channels]      float32
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/scalar_type.h"

struct mrb_cuda_map_rows {
  int64_t rows, length, channels;
  bool channels_last;
};

extern "C" {

// Overwrites `x`; `residual` may be null.
cudaError_t mrb_cuda_frozen_norm_forward(void* x, const float* scale, const float* shift, const void* residual,
                                         bool relu, const mrb_cuda_map_rows* map, mrb_scalar_type type,
                                         cudaStream_t stream);

// `y` (null: there was no ReLU), `grad_x` and `grad_residual` may be null.
cudaError_t mrb_cuda_frozen_norm_backward(const void* grad_y, const void* y, const float* scale, void* grad_x,
                                          void* grad_residual, const mrb_cuda_map_rows* map, mrb_scalar_type type,
                                          cudaStream_t stream);

}  // extern "C"
