#include "guard.h"

int mrb_upload(mrb_error* error, at::Tensor** output, const at::Tensor* tensor, int64_t index) {
  return mrb::guarded(error, [&] {
    const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(index));
    // The pinned copy is not used again before the transfer is done: libtorch's allocator sees to that.
    *output = new at::Tensor(tensor->pin_memory().to(device, /*non_blocking=*/true));
  });
}
