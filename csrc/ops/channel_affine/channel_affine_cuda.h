// Launch functions of channel_affine_cuda.cu: raw device pointers, no tensor. They return the error of the launch.
//
//   x, residual, y, grad_y, grad_x, masked  [rows, length]  of `type`
//   scale, shift                            [channels]      float32
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/scalar_type.h"
#include "ops/channel_affine/map_rows.h"

extern "C" {

// Overwrites `x`; `scale` and `residual` may be null.
cudaError_t mrb_cuda_channel_affine_forward(void* x, const float* scale, const float* shift, const void* residual,
                                            bool relu, const mrb_map_rows* map, mrb_scalar_type type,
                                            cudaStream_t stream);

// `y` (null: there was no ReLU), `grad_x` and `masked` may be null; without `grad_x`, `scale` may be.
cudaError_t mrb_cuda_channel_affine_backward(const void* grad_y, const void* y, const float* scale, void* grad_x,
                                             void* masked, const mrb_map_rows* map, mrb_scalar_type type,
                                             cudaStream_t stream);

}  // extern "C"
