#pragma once

#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

namespace c10::cuda {

class CUDAStream {
 public:
  cudaStream_t stream() const { return mrb::emulation::current_stream(); }
};

// With several GPUs the current stream is that of the device of a guard, which must live then.
inline CUDAStream getCurrentCUDAStream() {
  TORCH_CHECK(CUDAGuard::alive > 0, "the current stream was asked for without a guard of the tensors' device");
  return {};
}

}  // namespace c10::cuda
