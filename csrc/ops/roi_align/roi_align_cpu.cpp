// Samples and their bilinear weights separate into rows and columns, so each bin of a RoI is a sum over (row taps) x
// (column taps), with taps that fall on the same row or column merged. The loops run over channels, which lie side by
// side: a plain NCHW input is rearranged once.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/common/simd.h"
#include "ops/roi_align/roi_align.h"

namespace mrb {
namespace {

// The taps of one axis: for bin b, positions[k] and weights[k] with k in first[b] .. first[b + 1].
template <typename T>
struct Taps {
  std::vector<int64_t> first;
  std::vector<int64_t> positions;
  std::vector<T> weights;

  void add(int64_t position, T weight) {
    const auto begin = first.back();
    for (auto k = static_cast<int64_t>(positions.size()); k-- > begin;) {
      if (positions[k] == position) {
        weights[k] += weight;
        return;
      }
      if (positions[k] < position) break;  // samples come in rising order
    }
    positions.push_back(position);
    weights.push_back(weight);
  }

  // Same order of operations as the original's pre_calc_for_bilinear_interpolate (ROIAlign_cpu.cpp).
  void set(T start, T bin_size, int64_t bins, int64_t samples, int64_t size) {
    first.assign(1, 0);
    positions.clear();
    weights.clear();
    const T share = T(1) / static_cast<T>(samples);
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t i = 0; i < samples; ++i) {
        T v = start + bin * bin_size + static_cast<T>(i + .5f) * bin_size / static_cast<T>(samples);
        if (v < T(-1) || v > static_cast<T>(size)) continue;  // outside: counts as zero
        v = std::max(v, T(0));
        const auto low = static_cast<int64_t>(v);
        if (low >= size - 1) {
          add(size - 1, share);
        } else {
          const T part = v - low;
          add(low, (T(1) - part) * share);
          add(low + 1, part * share);
        }
      }
      first.push_back(static_cast<int64_t>(positions.size()));
    }
  }
};

// A map, channels side by side, or its gradient.
template <typename T>
struct Map {
  T* data;
  int64_t images, height, width;
  double spatial_scale;
};

// Where a RoI takes its values from.
enum class Source {
  map,
  none,     // its level is none of the maps
  invalid,  // it is not finite or absurdly large
};

template <typename T>
struct RoiTaps {
  int64_t image = 0;
  Taps<T> y, x;

  template <typename Value>
  Source set(const T* roi, int64_t level, const std::vector<Map<Value>>& maps, const RoiAlignShape& shape) {
    const bool exists = level >= 0 && level < static_cast<int64_t>(maps.size());
    const auto& map = maps[exists ? level : 0];
    const T scale = static_cast<T>(map.spatial_scale);
    const T limit = static_cast<T>(1 << 22);
    for (int i = 1; i < 5; ++i) {
      if (!(std::abs(roi[i] * scale) < limit)) return Source::invalid;
    }
    TORCH_CHECK(roi[0] >= 0 && roi[0] < static_cast<T>(map.images), "roi_align: RoI of image ", roi[0],
                " in a batch of ", map.images);
    if (!exists) return Source::none;
    image = static_cast<int64_t>(roi[0]);
    const T x1 = roi[1] * scale, y1 = roi[2] * scale;
    const T roi_width = std::max(roi[3] * scale - x1, T(1));
    const T roi_height = std::max(roi[4] * scale - y1, T(1));
    const auto samples = [&](T length, int64_t bins) {
      return shape.sampling_ratio > 0 ? shape.sampling_ratio : static_cast<int64_t>(std::ceil(length / bins));
    };
    y.set(y1, roi_height / static_cast<T>(shape.pooled_height), shape.pooled_height,
          samples(roi_height, shape.pooled_height), map.height);
    x.set(x1, roi_width / static_cast<T>(shape.pooled_width), shape.pooled_width,
          samples(roi_width, shape.pooled_width), map.width);
    return Source::map;
  }
};

// The RoIs and their levels.
template <typename T>
struct Rois {
  at::Tensor rois, levels;

  int64_t size() const { return rois.size(0); }
  const T* roi(int64_t r) const { return rois.const_data_ptr<T>() + r * 5; }
  int64_t level(int64_t r) const { return levels.defined() ? levels.const_data_ptr<int64_t>()[r] : 0; }
};

// Rows (channel vectors) and weights of one bin.
template <typename T, typename Pointer>
void bin_taps(const RoiTaps<T>& taps, Pointer image, int64_t row_stride, int64_t column_stride, int64_t ph, int64_t pw,
              std::vector<Pointer>& rows, std::vector<T>& weights) {
  rows.clear();
  weights.clear();
  for (auto i = taps.y.first[ph]; i < taps.y.first[ph + 1]; ++i) {
    for (auto j = taps.x.first[pw]; j < taps.x.first[pw + 1]; ++j) {
      rows.push_back(image + taps.y.positions[i] * row_stride + taps.x.positions[j] * column_stride);
      weights.push_back(taps.y.weights[i] * taps.x.weights[j]);
    }
  }
}

template <typename T>
void forward(const std::vector<Map<const T>>& maps, const Rois<T>& rois, const RoiAlignShape& shape, bool channels_last,
             at::Tensor& output) {
  const auto channels = output.size(1), bins = shape.pooled_height * shape.pooled_width;
  T* out_data = output.mutable_data_ptr<T>();
  at::parallel_for(0, rois.size(), 1, [&](int64_t begin, int64_t end) {
    RoiTaps<T> taps;
    std::vector<const T*> rows;
    std::vector<T> weights;
    std::vector<T> scratch(channels_last ? 0 : bins * channels);
    for (auto r = begin; r < end; ++r) {
      T* out = out_data + r * bins * channels;
      const auto level = rois.level(r);
      const auto source = taps.set(rois.roi(r), level, maps, shape);
      if (source != Source::map) {
        std::fill(out, out + bins * channels, source == Source::none ? T(0) : std::numeric_limits<T>::quiet_NaN());
        continue;
      }
      const auto& map = maps[level];
      const T* image = map.data + taps.image * map.height * map.width * channels;
      T* pooled = channels_last ? out : scratch.data();
      for (int64_t ph = 0; ph < shape.pooled_height; ++ph) {
        for (int64_t pw = 0; pw < shape.pooled_width; ++pw) {
          bin_taps(taps, image, map.width * channels, channels, ph, pw, rows, weights);
          simd::weighted_sum(pooled + (ph * shape.pooled_width + pw) * channels, rows.data(), weights.data(),
                             static_cast<int64_t>(rows.size()), channels);
        }
      }
      if (!channels_last) {
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t bin = 0; bin < bins; ++bin) out[c * bins + bin] = pooled[bin * channels + c];
        }
      }
    }
  });
}

template <typename T>
void backward(const at::Tensor& grad_output, const Rois<T>& rois, const RoiAlignShape& shape,
              const std::vector<Map<T>>& maps) {
  const auto channels = grad_output.size(1), bins = shape.pooled_height * shape.pooled_width;
  const T* grad_data = grad_output.const_data_ptr<T>();
  // Threads share the channels, not the RoIs: RoIs overlap, and so the sums do not depend on the number of threads.
  constexpr int64_t block = 16;
  at::parallel_for(0, (channels + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    const auto first = begin * block, count = std::min(end * block, channels) - first;
    RoiTaps<T> taps;
    std::vector<T*> rows;
    std::vector<T> weights;
    for (int64_t r = 0; r < rois.size(); ++r) {
      const auto level = rois.level(r);
      if (taps.set(rois.roi(r), level, maps, shape) != Source::map) continue;
      const auto& map = maps[level];
      T* image = map.data + taps.image * map.height * map.width * channels + first;
      const T* grad = grad_data + r * bins * channels + first;
      for (int64_t ph = 0; ph < shape.pooled_height; ++ph) {
        for (int64_t pw = 0; pw < shape.pooled_width; ++pw, grad += channels) {
          bin_taps(taps, image, map.width * channels, channels, ph, pw, rows, weights);
          simd::weighted_scatter(rows.data(), weights.data(), static_cast<int64_t>(rows.size()), grad, count);
        }
      }
    }
  });
}

// `data` of each map, as `pointer(tensor)` gives it.
template <typename T, typename Function>
std::vector<Map<T>> maps_of(const std::vector<at::Tensor>& tensors, const RoiAlignShape& shape, Function pointer) {
  std::vector<Map<T>> maps;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& t = tensors[i];
    maps.push_back({pointer(t), t.size(0), t.size(2), t.size(3), shape.spatial_scales[i]});
  }
  return maps;
}

}  // namespace

at::Tensor roi_align_forward_cpu(at::TensorList inputs, const at::Tensor& rois, const at::Tensor& levels,
                                 const RoiAlignShape& shape) {
  const auto format = inputs[0].suggest_memory_format();
  const auto channels_last = format == at::MemoryFormat::ChannelsLast;
  auto output = at::empty({rois.size(0), inputs[0].size(1), shape.pooled_height, shape.pooled_width},
                          inputs[0].options().memory_format(format));
  if (output.numel() == 0) return output;
  std::vector<at::Tensor> rearranged;
  for (const auto& input : inputs) rearranged.push_back(input.contiguous(at::MemoryFormat::ChannelsLast));
  AT_DISPATCH_FLOATING_TYPES(output.scalar_type(), "roi_align_forward", [&] {
    const auto pointer = [](const at::Tensor& t) { return t.const_data_ptr<scalar_t>(); };
    const auto maps = maps_of<const scalar_t>(rearranged, shape, pointer);
    forward<scalar_t>(maps, {rois.contiguous(), levels}, shape, channels_last, output);
  });
  return output;
}

std::vector<at::Tensor> roi_align_backward_cpu(const at::Tensor& grad_output, const at::Tensor& rois,
                                               const at::Tensor& levels,
                                               const std::vector<std::vector<int64_t>>& input_sizes,
                                               const RoiAlignShape& shape) {
  const auto format = grad_output.suggest_memory_format();
  const auto options = grad_output.options().memory_format(at::MemoryFormat::ChannelsLast);
  std::vector<at::Tensor> grads;
  for (const auto& size : input_sizes) grads.push_back(at::empty(size, options).zero_());
  if (grad_output.numel() > 0) {
    const auto rearranged = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
    AT_DISPATCH_FLOATING_TYPES(grad_output.scalar_type(), "roi_align_backward", [&] {
      const auto pointer = [](const at::Tensor& t) { return t.mutable_data_ptr<scalar_t>(); };
      const auto maps = maps_of<scalar_t>(grads, shape, pointer);
      backward<scalar_t>(rearranged, {rois.contiguous(), levels}, shape, maps);
    });
  }
  for (auto& grad : grads) grad = grad.contiguous(format);
  return grads;
}

}  // namespace mrb
