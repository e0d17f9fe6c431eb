// What follows a convolution, a frozen batch norm or a bias and then the end of a block, in one pass over the map:
//
//   y = relu(x * scale + shift + residual)        scale, residual and ReLU may be left out
//
//   x, residual, y  [N, C, H, W]  float32, float64, float16 or bfloat16 (on CUDA not float64); computed in float32 at least
//   scale           [C]           a constant: a frozen norm's
//   shift           [C]           a frozen norm's, or a bias, which has a gradient
//
// The constants are float32 (float64 for a map in float64). The product is rounded before the sum, as in the operators
// that this replaces, so that the values are the same bits.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/channel_affine/map_rows.h"

namespace mrb {

// Of a map that is dense, NCHW or channels-last.
inline mrb_map_rows rows_of(const at::Tensor& map) {
  const auto channels = map.size(1), pixels = map.size(2) * map.size(3);
  const bool channels_last = map.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  return {map.size(0) * (channels_last ? pixels : channels), channels_last ? channels : pixels, channels,
          channels_last};
}

// Overwrites `x` with y. `x` is dense, NCHW or channels-last; `residual` (may be undefined) is like it. `scale` may be
// undefined.
void channel_affine_forward_cpu(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                                const at::Tensor& residual, bool relu);
// Writes to what is defined of `masked`, the gradient before the ReLU (all of it where there was none, `y` undefined),
// and `grad_x`, that times `scale`. All are dense in the format of `grad_y`. Without `grad_x`, `scale` may be undefined.
void channel_affine_backward_cpu(const at::Tensor& grad_y, const at::Tensor& y, const at::Tensor& scale,
                                 const at::Tensor& grad_x, const at::Tensor& masked);

// Only in builds with CUDA.
void channel_affine_forward_cuda(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                                 const at::Tensor& residual, bool relu);
void channel_affine_backward_cuda(const at::Tensor& grad_y, const at::Tensor& y, const at::Tensor& scale,
                                  const at::Tensor& grad_x, const at::Tensor& masked);

}  // namespace mrb
