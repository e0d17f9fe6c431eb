// Launches of the CUDA kernels of RoIPool; the tensors and their meaning are in roi_pool.h. RoIs are always float.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/scalar_type.h"
#include "ops/common/roi_sizes.h"

extern "C" {

// `argmax` has the output's shape and format.
cudaError_t mrb_cuda_roi_pool_forward(const void* input, const float* rois, void* output, int32_t* argmax,
                                      const mrb_cuda_roi_sizes* sizes, mrb_scalar_type type, cudaStream_t stream);

// Adds to `grad_input`, which is zero before, with atomic additions: the order of the sums is not fixed. A pixel that
// is the maximum of many bins sums many terms, so they are added up in double; then the order hardly matters.
cudaError_t mrb_cuda_roi_pool_backward(const void* grad_output, const int32_t* argmax, const float* rois,
                                       double* grad_input, const mrb_cuda_roi_sizes* sizes, mrb_scalar_type type,
                                       cudaStream_t stream);

// Writes all of `grad_input`; each pixel gathers what it is owed in the order of the RoIs, so that the bits are the
// same every time.
cudaError_t mrb_cuda_roi_pool_backward_deterministic(const void* grad_output, const int32_t* argmax, const float* rois,
                                                     void* grad_input, const mrb_cuda_roi_sizes* sizes,
                                                     mrb_scalar_type type, cudaStream_t stream);

}  // extern "C"
