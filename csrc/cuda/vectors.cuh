// Several values side by side that are read or written at once.
#pragma once

#include <initializer_list>

#include "cuda/launch.cuh"

namespace mrb::cuda {

// Copied whole, this is one access: of 16 bytes, the most there is, unless fewer values are asked for.
template <typename T, int count = 16 / sizeof(T)>
struct alignas(count * sizeof(T)) Vector {
  static constexpr int width = count;
  T values[count];
};

__device__ __forceinline__ void atomic_add(float* place, const Vector<float, 1>& v) { atomic_add(place, v.values[0]); }

// Four sums, each added to on its own; `place` is a multiple of 16 bytes. One access where the GPU has it.
__device__ __forceinline__ void atomic_add(float* place, const Vector<float, 4>& v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  for (int i = 0; i < 4; ++i) atomic_add(place + i, v.values[i]);
#else
  atomicAdd(reinterpret_cast<float4*>(place), float4{v.values[0], v.values[1], v.values[2], v.values[3]});
#endif
}

// Null is aligned too.
inline bool are_aligned(std::initializer_list<const void*> places, size_t bytes = 16) {
  for (const void* place : places) {
    if (reinterpret_cast<uintptr_t>(place) % bytes != 0) return false;
  }
  return true;
}

}  // namespace mrb::cuda
