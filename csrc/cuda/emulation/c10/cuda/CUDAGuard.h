#pragma once

#include <c10/core/Device.h>

namespace c10::cuda {

// There is one device; a guard only shows that the caller thought of it.
class CUDAGuard {
 public:
  explicit CUDAGuard(Device) { ++alive; }
  ~CUDAGuard() { --alive; }
  CUDAGuard(const CUDAGuard&) = delete;
  CUDAGuard& operator=(const CUDAGuard&) = delete;

  inline static thread_local int alive = 0;
};

}  // namespace c10::cuda
