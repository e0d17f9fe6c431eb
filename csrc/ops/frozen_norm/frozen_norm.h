// What follows a convolution in a network with frozen batch norms, in one pass over the map:
//
//   y = relu(x * scale + shift + residual)        residual and ReLU may be left out
//
//   x, residual, y  [N, C, H, W]  float32, float64, float16 or bfloat16 (on CUDA not float64), computed in float32 or more
//   scale, shift    [C]           constants: float32 (float64 for a map in float64)
//
// The product is rounded before the sum, as in the operators that this replaces, so that the values are the same bits.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/frozen_norm/map_rows.h"

namespace mrb {

// Of a map that is dense, NCHW or channels-last.
inline mrb_map_rows rows_of(const at::Tensor& map) {
  const auto channels = map.size(1), pixels = map.size(2) * map.size(3);
  const bool channels_last = map.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  return {map.size(0) * (channels_last ? pixels : channels), channels_last ? channels : pixels, channels,
          channels_last};
}

// Overwrites `x` with y. `x` is dense, NCHW or channels-last; `residual` (may be undefined) is like it.
void frozen_norm_forward_cpu(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                             const at::Tensor& residual, bool relu);
// The gradients of `x` and of the residual, written to what is defined of `grad_x` and `grad_residual`; all are dense in the
// format of `grad_y`. `y` is undefined where there was no ReLU.
void frozen_norm_backward_cpu(const at::Tensor& grad_y, const at::Tensor& y, const at::Tensor& scale,
                              const at::Tensor& grad_x, const at::Tensor& grad_residual);

// Only in builds with CUDA.
void frozen_norm_forward_cuda(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                              const at::Tensor& residual, bool relu);
void frozen_norm_backward_cuda(const at::Tensor& grad_y, const at::Tensor& y, const at::Tensor& scale,
                               const at::Tensor& grad_x, const at::Tensor& grad_residual);

}  // namespace mrb
