// How libtorch computes (deterministic algorithms, TF32), and what it says of a CUDA device. Everything here goes
// through libtorch's own interfaces, so that it needs no CUDA to be built.
#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "guard.h"

int mrb_set_deterministic(mrb_error* error, bool deterministic) {
  return mrb::guarded(error, [&] {
    auto& context = at::globalContext();
    // Operators that have no deterministic form say so in a warning; as errors they would make training impossible.
    context.setDeterministicAlgorithms(deterministic, /*warn_only=*/true);
    context.setDeterministicCuDNN(deterministic);
    // Filling fresh memory with nan finds bugs and costs time; nothing here reads it before it is written.
    context.setDeterministicFillUninitializedMemory(false);
  });
}

bool mrb_is_deterministic() { return at::globalContext().deterministicAlgorithms(); }

int mrb_set_tf32(mrb_error* error, bool allowed) {
  return mrb::guarded(error, [&] {
    at::globalContext().setAllowTF32CuBLAS(allowed);
    at::globalContext().setAllowTF32CuDNN(allowed);
  });
}

int mrb_cuda_set_device(mrb_error* error, int64_t index) {
  return mrb::guarded(error, [&] {
    c10::impl::getDeviceGuardImpl(at::kCUDA)->setDevice(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index)));
  });
}

int mrb_cuda_peak_memory(mrb_error* error, int64_t* bytes, int64_t index) {
  return mrb::guarded(error, [&] {
    const auto stats = c10::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<at::DeviceIndex>(index));
    *bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
  });
}
