// What differs between a GPU and the host that emulates one: csrc/cuda/emulation has a header of the same name.
#pragma once

#include <ATen/core/Tensor.h>

namespace mrb {

// Whether an operator's CUDA code works on the tensor.
inline bool on_cuda(const at::Tensor& tensor) { return tensor.is_cuda(); }

namespace cuda {

// Values that deform_conv samples for one matrix product: 256 MB of float32. One image may need more.
constexpr int64_t deform_conv_columns = 64 << 20;

}  // namespace cuda
}  // namespace mrb
