// Runs CUDA kernels on the host, so that their arithmetic and indexing can be tested on a machine without a GPU.
//
// A C++ compiler that finds this folder before all others takes the .cu files as they are: <cuda_runtime.h> and the
// other CUDA headers are then the ones here. It is an emulation, not a GPU: the blocks of a grid run one after the
// other, memory is the host's, there is one stream, and what nvcc fuses into multiply-adds is rounded twice. Of CUDA
// there is what the kernels of this project use.
//
// Only tests compile this (tests/areas/cuda_emulated): the kernels into one library; the code between tensors and
// kernels, against libtorch's own headers, into another. For the second there are also the few headers of libtorch that
// need CUDA (c10/cuda), and cuda/target.h, which stands before the real one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "block_scheduler.h"
#include "cuda_runtime_api.h"
#include "small_floats.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block runs at a time, so what a block shares can be one place for all.
#define __shared__ static

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

// ---- inside a kernel ----

inline void __syncthreads() { mrb::emulation::scheduler().wait_for_block(); }

// One thread runs at a time, up to the next barrier.
template <typename T, typename V>
T atomicAdd(T* place, V value) {
  const T old = *place;
  *place = static_cast<T>(old + static_cast<T>(value));
  return old;
}

struct alignas(16) float4 {
  float x, y, z, w;
};

inline float4 atomicAdd(float4* place, float4 value) {
  // On a GPU this stops the kernel.
  if (reinterpret_cast<uintptr_t>(place) % sizeof(float4) != 0) std::abort();
  const float4 old = *place;
  *place = {old.x + value.x, old.y + value.y, old.z + value.z, old.w + value.w};
  return old;
}

template <typename T, typename V>
T atomicMax(T* place, V value) {
  const T old = *place;
  *place = std::max(old, static_cast<T>(value));
  return old;
}

template <typename T, typename V>
T atomicOr(T* place, V value) {
  const T old = *place;
  *place = old | static_cast<T>(value);
  return old;
}

template <typename T>
T __ldg(const T* place) {
  return *place;
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }

inline int __float_as_int(float value) { return static_cast<int>(mrb::emulation::bits_of(value)); }
inline float __int_as_float(int bits) { return mrb::emulation::float_of(static_cast<uint32_t>(bits)); }

inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }

// ---- launching ----

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const auto &grid = config->gridDim, &block = config->blockDim;
  // The limits of every GPU since compute capability 3.0.
  const bool fits = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 &&
                    grid.z <= 65535 && block.x > 0 && block.y > 0 && block.z > 0 && block.z <= 64 &&
                    static_cast<size_t>(block.x) * block.y * block.z <= 1024 && config->dynamicSmemBytes == 0;
  if (!fits) return cudaErrorInvalidConfiguration;
  // On a GPU it would run, beside what the others do.
  if (config->stream != mrb::emulation::current_stream()) return cudaErrorInvalidResourceHandle;
  mrb::emulation::scheduler().run(grid, block, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}
