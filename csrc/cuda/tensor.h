// What the wrappers between tensors and CUDA kernels share. Only the c10 headers of CUDA: those of ATen/cuda need
// cuBLAS and cuSOLVER to be installed.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include "cuda/scalar_type.h"
#include "cuda/target.h"

namespace mrb::cuda {

// The tensor's device for as long as the guard lives:  const Guard guard(input.device());
using Guard = c10::cuda::CUDAGuard;

// The stream on which libtorch works at the moment on the current device.
inline cudaStream_t current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

inline mrb_scalar_type scalar_type(const char* op, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return MRB_FLOAT32;
    case at::kHalf:
      return MRB_FLOAT16;
    case at::kBFloat16:
      return MRB_BFLOAT16;
    default:
      TORCH_CHECK(false, op, ": on CUDA the type must be float32, float16 or bfloat16, not ", tensor.scalar_type());
  }
}

// Where the values of a tensor that may be absent begin.
inline const void* data(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }
inline void* mutable_data(const at::Tensor& tensor) { return tensor.defined() ? tensor.mutable_data_ptr() : nullptr; }

inline void check(const char* op, cudaError_t status) {
  TORCH_CHECK(status == cudaSuccess, op, ": CUDA says: ", cudaGetErrorString(status));
}

}  // namespace mrb::cuda
