// Launch functions of sigmoid_focal_loss_cuda.cu: raw device pointers, no tensor. They return the error of the launch.
//
//   logits, loss, grad_loss, grad_logits  [R, C]  of `type`
//   targets                               [R]     int32
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/scalar_type.h"

extern "C" {

cudaError_t mrb_cuda_sigmoid_focal_loss_forward(const void* logits, const int32_t* targets, int64_t rows,
                                                int64_t classes, float gamma, float alpha, mrb_scalar_type type,
                                                void* loss, cudaStream_t stream);

cudaError_t mrb_cuda_sigmoid_focal_loss_backward(const void* grad_loss, const void* logits, const int32_t* targets,
                                                 int64_t rows, int64_t classes, float gamma, float alpha,
                                                 mrb_scalar_type type, void* grad_logits, cudaStream_t stream);

}  // extern "C"
