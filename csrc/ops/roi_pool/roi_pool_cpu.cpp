#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/common/simd.h"
#include "ops/roi_pool/roi_pool.h"

namespace mrb {
namespace {

// The part of one axis that belongs to each bin.
template <typename T>
void bin_ranges(T start, T end, int64_t bins, int64_t size, std::vector<std::pair<int64_t, int64_t>>& ranges) {
  const auto first = static_cast<int64_t>(std::round(start));
  const auto length = std::max<int64_t>(static_cast<int64_t>(std::round(end)) - first + 1, 1);
  const T bin_size = static_cast<T>(length) / static_cast<T>(bins);
  ranges.clear();
  for (int64_t bin = 0; bin < bins; ++bin) {
    const auto low = static_cast<int64_t>(std::floor(static_cast<T>(bin) * bin_size)) + first;
    const auto high = static_cast<int64_t>(std::ceil(static_cast<T>(bin + 1) * bin_size)) + first;
    ranges.emplace_back(std::clamp<int64_t>(low, 0, size), std::clamp<int64_t>(high, 0, size));
  }
}

template <typename T>
void forward(const at::Tensor& input, const at::Tensor& rois, const RoiPoolShape& shape, bool channels_last,
             at::Tensor& output, at::Tensor& argmax) {
  const auto images = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  const auto bins = shape.pooled_height * shape.pooled_width;
  const T scale = static_cast<T>(shape.spatial_scale);
  const T* data = input.const_data_ptr<T>();
  const T* roi_data = rois.const_data_ptr<T>();
  T* out_data = output.mutable_data_ptr<T>();
  int32_t* argmax_data = argmax.mutable_data_ptr<int32_t>();
  at::parallel_for(0, rois.size(0), 1, [&](int64_t begin, int64_t end) {
    std::vector<std::pair<int64_t, int64_t>> rows, columns;
    std::vector<T> scratch(channels_last ? 0 : bins * channels);
    for (auto r = begin; r < end; ++r) {
      const T* roi = roi_data + r * 5;
      T* out = out_data + r * bins * channels;
      int32_t* index = argmax_data + r * bins * channels;
      std::fill(index, index + bins * channels, -1);
      if (!std::all_of(roi + 1, roi + 5, [&](T v) { return std::abs(v * scale) < static_cast<T>(1 << 22); })) {
        std::fill(out, out + bins * channels, std::numeric_limits<T>::quiet_NaN());
        continue;
      }
      TORCH_CHECK(roi[0] >= 0 && roi[0] < static_cast<T>(images), "roi_pool: RoI of image ", roi[0], " in a batch of ",
                  images);
      const T* image = data + static_cast<int64_t>(roi[0]) * height * width * channels;
      bin_ranges(roi[2] * scale, roi[4] * scale, shape.pooled_height, height, rows);
      bin_ranges(roi[1] * scale, roi[3] * scale, shape.pooled_width, width, columns);
      T* pooled = channels_last ? out : scratch.data();
      int64_t bin = 0;
      for (const auto& [top, bottom] : rows) {
        for (const auto& [left, right] : columns) {
          T* best = pooled + bin * channels;
          const bool empty = bottom <= top || right <= left;
          std::fill(best, best + channels, empty ? T(0) : T(-FLT_MAX));
          for (auto y = top; y < bottom; ++y) {
            for (auto x = left; x < right; ++x) {
              const auto position = y * width + x;
              simd::keep_greater(best, index + bin * channels, image + position * channels,
                                 static_cast<int32_t>(position), channels);
            }
          }
          ++bin;
        }
      }
      if (!channels_last) {
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t b = 0; b < bins; ++b) out[c * bins + b] = pooled[b * channels + c];
        }
      }
    }
  });
}

template <typename T>
void backward(const at::Tensor& grad_output, const at::Tensor& argmax, const at::Tensor& rois,
              at::Tensor& grad_input) {
  const auto channels = grad_input.size(1), pixels = grad_input.size(2) * grad_input.size(3);
  const auto bins = grad_output.size(2) * grad_output.size(3);
  const T* grad_data = grad_output.const_data_ptr<T>();
  const T* roi_data = rois.const_data_ptr<T>();
  const int32_t* argmax_data = argmax.const_data_ptr<int32_t>();
  T* data = grad_input.mutable_data_ptr<T>();
  // Threads share the channels, not the RoIs: RoIs overlap, and so the sums do not depend on the number of threads.
  at::parallel_for(0, channels, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rois.size(0); ++r) {
      for (int64_t bin = 0; bin < bins; ++bin) {
        const auto row = (r * bins + bin) * channels;
        for (auto c = begin; c < end; ++c) {
          const auto position = argmax_data[row + c];
          if (position < 0) continue;
          const auto image = static_cast<int64_t>(roi_data[r * 5]);
          data[(image * pixels + position) * channels + c] += grad_data[row + c];
        }
      }
    }
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> roi_pool_forward_cpu(const at::Tensor& input, const at::Tensor& rois,
                                                        const RoiPoolShape& shape) {
  const auto format = input.suggest_memory_format();
  const auto channels_last = format == at::MemoryFormat::ChannelsLast;
  auto output = at::empty({rois.size(0), input.size(1), shape.pooled_height, shape.pooled_width},
                          input.options().memory_format(format));
  auto argmax = at::empty({rois.size(0), shape.pooled_height, shape.pooled_width, input.size(1)},
                          input.options().dtype(at::kInt));
  if (output.numel() > 0) {
    const auto rearranged = input.contiguous(at::MemoryFormat::ChannelsLast);
    const auto regions = rois.contiguous();
    AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "roi_pool_forward", [&] {
      forward<scalar_t>(rearranged, regions, shape, channels_last, output, argmax);
    });
  }
  return {output, argmax};
}

at::Tensor roi_pool_backward_cpu(const at::Tensor& grad_output, const at::Tensor& argmax, const at::Tensor& rois,
                                 at::IntArrayRef input_size, const RoiPoolShape& /*shape*/) {
  auto grad_input = at::empty(input_size, grad_output.options().memory_format(at::MemoryFormat::ChannelsLast)).zero_();
  if (grad_output.numel() > 0 && grad_input.numel() > 0) {
    const auto rearranged = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
    const auto regions = rois.contiguous();
    AT_DISPATCH_FLOATING_TYPES(grad_output.scalar_type(), "roi_pool_backward", [&] {
      backward<scalar_t>(rearranged, argmax, regions, grad_input);
    });
  }
  return grad_input.contiguous(grad_output.suggest_memory_format());
}

}  // namespace mrb
