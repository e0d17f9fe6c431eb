// What every kernel needs: element types, the loop over elements, and the one way in which kernels are launched.
//
// Kernels use nothing of CUDA beyond this header and the built-ins that csrc/cuda/emulation provides on the host, so
// that the same files can be compiled by a C++ compiler and tested without a GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/scalar_type.h"

// for (int64_t i over this thread's share of 0 .. n): right for every n and every grid.
#define MRB_GRID_STRIDE(i, n)                                                            \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
       i += static_cast<int64_t>(blockDim.x) * gridDim.x)

namespace mrb::cuda {

constexpr int64_t block_size = 256;

inline __host__ __device__ int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ __forceinline__ void store(float* place, float v) { *place = v; }
__device__ __forceinline__ void store(__half* place, float v) { *place = __float2half(v); }
__device__ __forceinline__ void store(__nv_bfloat16* place, float v) { *place = __float2bfloat16(v); }

// Sums that several threads add to are float buffers (RoIPool's are double), whatever the tensors' type is: the wrapper
// converts them once.
__device__ __forceinline__ void atomic_add(float* place, float v) { atomicAdd(place, v); }

// Calls `function` with a value of the element type: dispatch(type, [&](auto zero) { using T = decltype(zero); ... }).
template <typename Function>
cudaError_t dispatch(mrb_scalar_type type, const Function& function) {
  switch (type) {
    case MRB_FLOAT32:
      return function(float{});
    case MRB_FLOAT16:
      return function(__half{});
    case MRB_BFLOAT16:
      return function(__nv_bfloat16{});
  }
  return cudaErrorInvalidValue;
}

// kernel<<<grid, block, 0, stream>>>(arguments...), with the launch's own error.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(cudaStream_t stream, dim3 grid, dim3 block, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// One thread for each of `count` elements (more elements than a grid may have threads: the kernel's loop goes on).
// Nothing happens for `count` 0.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_elements(cudaStream_t stream, int64_t count, void (*kernel)(Parameters...), Arguments... arguments) {
  if (count <= 0) return cudaSuccess;
  constexpr int64_t most_blocks = 1 << 20;
  const int64_t blocks = ceil_div(count, block_size);
  return launch(stream, dim3(static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks)),
                dim3(static_cast<unsigned>(block_size)), kernel, arguments...);
}

}  // namespace mrb::cuda
