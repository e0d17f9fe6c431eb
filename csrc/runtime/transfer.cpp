#include <ATen/DeviceGuard.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <memory>

#include "guard.h"

int mrb_tensor_over(mrb_error* error, at::Tensor** output, float* values, const int64_t* sizes, size_t dimensions,
                    void (*release)(void*), void* owner) {
  return mrb::guarded(error, [&] {
    const std::shared_ptr<void> held(owner, release);
    const at::IntArrayRef shape(sizes, dimensions);
    *output = new at::Tensor(at::from_blob(values, shape, [held](void*) {}, at::TensorOptions().dtype(at::kFloat)));
  });
}

int mrb_empty_pinned(mrb_error* error, at::Tensor** output, const int64_t* sizes, size_t dimensions, int64_t index) {
  return mrb::guarded(error, [&] {
    // libtorch's allocator of pinned memory asks the current device for what has ended, and in a new thread that is the
    // first GPU, which would get a context of this process.
    const at::DeviceGuard guard(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index)));
    const auto options = at::TensorOptions().dtype(at::kFloat).pinned_memory(true);
    *output = new at::Tensor(at::empty(at::IntArrayRef(sizes, dimensions), options));
  });
}

int mrb_upload(mrb_error* error, at::Tensor** output, const at::Tensor* tensor, int64_t index) {
  return mrb::guarded(error, [&] {
    const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(index));
    // Pinned memory is not used again before the transfer is done: libtorch's allocator sees to that.
    *output = new at::Tensor(tensor->pin_memory().to(device, /*non_blocking=*/true));
  });
}
