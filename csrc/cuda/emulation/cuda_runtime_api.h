// Types and functions of the runtime, for code that is compiled for the host on a GPU too.
#pragma once

#include <cstdint>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidResourceHandle = 400
};

using cudaStream_t = struct CUstream_st*;

inline const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
  }
  return "unrecognized error code";
}

namespace mrb::emulation {

// The one stream on which launches are taken: neither null nor the address of anything. tests/areas/cuda_emulated knows
// it.
inline cudaStream_t current_stream() { return reinterpret_cast<cudaStream_t>(uintptr_t{64}); }

}  // namespace mrb::emulation
