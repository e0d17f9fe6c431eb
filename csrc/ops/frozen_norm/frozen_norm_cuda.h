// Launch functions of frozen_norm_cuda.cu: raw device pointers, no tensor. They return the error of the launch.
//
//   x, residual, y, grad_y, grad_x, grad_residual  [rows, length]  of `type`
//   scale, shift                                   [channels]      float32
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/scalar_type.h"
#include "ops/frozen_norm/map_rows.h"

extern "C" {

// Overwrites `x`; `residual` may be null.
cudaError_t mrb_cuda_frozen_norm_forward(void* x, const float* scale, const float* shift, const void* residual,
                                         bool relu, const mrb_map_rows* map, mrb_scalar_type type,
                                         cudaStream_t stream);

// `y` (null: there was no ReLU), `grad_x` and `grad_residual` may be null.
cudaError_t mrb_cuda_frozen_norm_backward(const void* grad_y, const void* y, const float* scale, void* grad_x,
                                          void* grad_residual, const mrb_map_rows* map, mrb_scalar_type type,
                                          cudaStream_t stream);

}  // extern "C"
