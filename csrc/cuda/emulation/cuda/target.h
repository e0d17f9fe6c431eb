// The code for CUDA works on the host's tensors, and small tests reach what is made for large ones.
#pragma once

#include <ATen/core/Tensor.h>

namespace mrb {

constexpr bool on_cuda(const at::Tensor&) { return true; }

namespace cuda {

constexpr int64_t deform_conv_columns = 1 << 14;

}  // namespace cuda
}  // namespace mrb
