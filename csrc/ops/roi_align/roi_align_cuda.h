// Launches of the CUDA kernels of RoIAlign; the tensors and their meaning are in roi_align.h. RoIs are always float.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/scalar_type.h"
#include "ops/common/roi_sizes.h"

// The maps that one launch pools from at most.
constexpr int mrb_cuda_roi_align_most_maps = 8;

extern "C" {

// Everything has one entry of `sizes` for each of the `count` maps, which have the same images, channels and pooled
// sizes. `levels` is null for one map.

// output[roi, channel, bin] of `type`, from `inputs` of `type`.
cudaError_t mrb_cuda_roi_align_forward(const void* const* inputs, const mrb_cuda_roi_sizes* sizes, int64_t count,
                                       const float* rois, const int64_t* levels, void* output, int64_t sampling_ratio,
                                       mrb_scalar_type type, cudaStream_t stream);

// Adds to `grad_inputs`, which are zero before, with atomic additions: the order of the sums is not fixed.
cudaError_t mrb_cuda_roi_align_backward(float* const* grad_inputs, const mrb_cuda_roi_sizes* sizes, int64_t count,
                                        const float* rois, const int64_t* levels, const void* grad_output,
                                        int64_t sampling_ratio, mrb_scalar_type type, cudaStream_t stream);

// Writes all of `grad_inputs`; each pixel gathers what it is owed in the order of the RoIs, so that the bits are the
// same every time.
cudaError_t mrb_cuda_roi_align_backward_deterministic(void* const* grad_inputs, const mrb_cuda_roi_sizes* sizes,
                                                      int64_t count, const float* rois, const int64_t* levels,
                                                      const void* grad_output, int64_t sampling_ratio,
                                                      mrb_scalar_type type, cudaStream_t stream);

}  // extern "C"
