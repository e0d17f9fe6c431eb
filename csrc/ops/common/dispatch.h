// From a tensor's device to the kernel.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <initializer_list>

#include "cuda/target.h"

// function##_cuda or function##_cpu, by the device of `tensor`; check_device has been called before.
#ifdef MRB_WITH_CUDA
#define MRB_DISPATCH(function, tensor, ...) \
  (mrb::on_cuda(tensor) ? function##_cuda(__VA_ARGS__) : function##_cpu(__VA_ARGS__))
#else
#define MRB_DISPATCH(function, tensor, ...) function##_cpu(__VA_ARGS__)
#endif

namespace mrb {

// All tensors on one device for which there are kernels.
inline void check_device(const char* op, std::initializer_list<const at::Tensor*> tensors) {
  const auto device = (*tensors.begin())->device();
  for (const auto* tensor : tensors) {
    TORCH_CHECK(tensor->device() == device, op, ": tensors must be on one device, they are on ", device, " and ",
                tensor->device());
  }
#ifdef MRB_WITH_CUDA
  TORCH_CHECK(device.is_cpu() || device.is_cuda(), op, ": tensors must be on the CPU or on CUDA, they are on ", device);
#else
  TORCH_CHECK(!device.is_cuda(), op, ": this program was built without CUDA kernels: build it again with nvcc ",
              "(tools/setup_libtorch.sh --cuda)");
  TORCH_CHECK(device.is_cpu(), op, ": tensors must be on the CPU, they are on ", device);
#endif
}

// RoIs as the kernels of the input's device want them: on CUDA they stay float, since features may be half.
inline at::Tensor rois_for(const at::Tensor& input, const at::Tensor& rois) {
  return rois.detach().to(on_cuda(input) ? at::kFloat : input.scalar_type());
}

}  // namespace mrb
