// From tensors to the sizes of RoI kernels.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "ops/common/roi_sizes.h"

namespace mrb {

// `map` is the input or its gradient, `pooled` the output or its gradient, dense in memory format `format`.
inline mrb_cuda_roi_sizes roi_sizes(const at::Tensor& map, const at::Tensor& pooled, at::MemoryFormat format,
                                    double spatial_scale) {
  mrb_cuda_roi_sizes sizes{};
  sizes.rois = pooled.size(0);
  sizes.images = map.size(0);
  sizes.channels = map.size(1);
  sizes.height = map.size(2);
  sizes.width = map.size(3);
  sizes.stride_n = map.stride(0);
  sizes.stride_c = map.stride(1);
  sizes.stride_h = map.stride(2);
  sizes.stride_w = map.stride(3);
  sizes.pooled_height = pooled.size(2);
  sizes.pooled_width = pooled.size(3);
  sizes.spatial_scale = static_cast<float>(spatial_scale);
  sizes.channels_last = format == at::MemoryFormat::ChannelsLast;
  return sizes;
}

// Room for the input's gradient: of the type of `grad_output` for a kernel that writes each value once (deterministic),
// zeros in float32 for one that adds up.
inline at::Tensor roi_grad_input(const at::Tensor& grad_output, at::IntArrayRef input_size, at::MemoryFormat format,
                                 bool deterministic) {
  const auto options = grad_output.options().memory_format(format);
  if (deterministic) return at::empty(input_size, options);
  return at::empty(input_size, options.dtype(at::kFloat)).zero_();
}

}  // namespace mrb
