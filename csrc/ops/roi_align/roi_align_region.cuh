// Where the bins of a RoI lie on the maps, and with which weights they count pixels.
#pragma once

#include "ops/common/roi.cuh"
#include "ops/roi_align/roi_align_cuda.h"

namespace mrb::cuda {

using Sizes = mrb_cuda_roi_sizes;

// The maps and their sizes, which come as arguments of the kernel.
template <typename T>
struct Pyramid {
  T* maps[mrb_cuda_roi_align_most_maps];
  Sizes sizes[mrb_cuda_roi_align_most_maps];
  int count;
};

// -1: none of the maps.
template <typename T>
__device__ inline int level_of(const int64_t* levels, int64_t roi, const Pyramid<T>& pyramid) {
  if (levels == nullptr) return 0;
  const int64_t level = levels[roi];
  return level >= 0 && level < pyramid.count ? static_cast<int>(level) : -1;
}

// A RoI on the feature map. The arithmetic is that of roi_align_cpu.cpp, and no product is fused with a sum: at one
// pixel outside the map a sample goes from full weight to none.
struct Region {
  bool valid;
  int64_t image;
  float x1, y1;
  float bin_width, bin_height;
  int samples_x, samples_y;  // per bin
};

__device__ inline Region region(const float* roi, int64_t sampling_ratio, const Sizes& s) {
  Region r{};
  r.valid = is_valid_roi(roi, s);
  if (!r.valid) return r;
  r.image = static_cast<int64_t>(roi[0]);
  r.x1 = __fmul_rn(roi[1], s.spatial_scale);
  r.y1 = __fmul_rn(roi[2], s.spatial_scale);
  const float width = fmaxf(__fadd_rn(__fmul_rn(roi[3], s.spatial_scale), -r.x1), 1.f);
  const float height = fmaxf(__fadd_rn(__fmul_rn(roi[4], s.spatial_scale), -r.y1), 1.f);
  r.bin_width = width / static_cast<float>(s.pooled_width);
  r.bin_height = height / static_cast<float>(s.pooled_height);
  const int fixed = static_cast<int>(sampling_ratio);
  r.samples_x = fixed > 0 ? fixed : static_cast<int>(ceilf(width / static_cast<float>(s.pooled_width)));
  r.samples_y = fixed > 0 ? fixed : static_cast<int>(ceilf(height / static_cast<float>(s.pooled_height)));
  return r;
}

// The two neighbours of one sample along one axis; no weight outside the map.
struct Tap {
  int low, high;
  float low_weight, high_weight;
};

__device__ inline Tap tap(float start, float bin_size, int bin, int sample, int samples, int size) {
  const float inside = __fmul_rn(static_cast<float>(sample) + .5f, bin_size) / static_cast<float>(samples);
  float v = __fadd_rn(__fadd_rn(start, __fmul_rn(static_cast<float>(bin), bin_size)), inside);
  if (v < -1.f || v > static_cast<float>(size)) return {0, 0, 0.f, 0.f};
  v = fmaxf(v, 0.f);
  const int low = static_cast<int>(v);
  if (low >= size - 1) return {size - 1, size - 1, 1.f, 0.f};
  const float part = v - static_cast<float>(low);
  return {low, low + 1, 1.f - part, part};
}

// A half-open interval.
struct Range {
  int first, last;
};

// The samples of a bin that may lie between `from` and `to` on one axis, and at most a few more. A RoI may be millions
// of cells wide, with a sample in each, of which the map only meets some.
__device__ inline Range samples_between(float from, float to, float start, float bin_size, int bin, int samples) {
  constexpr int few = 8;
  if (samples <= few) return {0, samples};
  const float spacing = bin_size / static_cast<float>(samples), origin = start + static_cast<float>(bin) * bin_size;
  const float low = floorf((from - origin) / spacing) - 3.f, high = ceilf((to - origin) / spacing) + 3.f;
  const float all = static_cast<float>(samples);
  return {static_cast<int>(fminf(fmaxf(low, 0.f), all)), static_cast<int>(fminf(fmaxf(high, 0.f), all))};
}

// Those on a map of `size` cells.
__device__ inline Range samples_on_map(float start, float bin_size, int bin, int samples, int64_t size) {
  return samples_between(-1.f, static_cast<float>(size), start, bin_size, bin, samples);
}

// Of a bin, over both axes.
__device__ inline float samples_of(const Region& r) {
  return static_cast<float>(r.samples_y) * static_cast<float>(r.samples_x);
}

// Calls `function(y, x)` with the taps of every sample of the bin that lies on the map.
template <typename Function>
__device__ __forceinline__ void for_samples(const Region& r, const Place& p, const Sizes& s, const Function& function) {
  const Range rows = samples_on_map(r.y1, r.bin_height, p.ph, r.samples_y, s.height);
  const Range columns = samples_on_map(r.x1, r.bin_width, p.pw, r.samples_x, s.width);
  for (int i = rows.first; i < rows.last; ++i) {
    const Tap y = tap(r.y1, r.bin_height, p.ph, i, r.samples_y, static_cast<int>(s.height));
    if (y.low_weight == 0.f && y.high_weight == 0.f) continue;
    for (int j = columns.first; j < columns.last; ++j) {
      const Tap x = tap(r.x1, r.bin_width, p.pw, j, r.samples_x, static_cast<int>(s.width));
      if (x.low_weight == 0.f && x.high_weight == 0.f) continue;
      function(y, x);
    }
  }
}

// The taps of two samples of one axis; where they fall on the same pixel, the first has both weights and the other
// none.
struct TwoTaps {
  int positions[4];
  float weights[4];
};

// Of `sample` and the next one, if that is before `last`.
__device__ __forceinline__ TwoTaps two_taps(float start, float bin_size, int bin, int sample, int last, int samples,
                                            int size) {
  const Tap a = tap(start, bin_size, bin, sample, samples, size);
  const Tap b = sample + 1 < last ? tap(start, bin_size, bin, sample + 1, samples, size) : Tap{0, 0, 0.f, 0.f};
  TwoTaps t{{a.low, a.high, b.low, b.high}, {a.low_weight, a.high_weight, b.low_weight, b.high_weight}};
  for (int i = 2; i < 4; ++i) {
    for (int j = 0; j < 2; ++j) {
      if (t.positions[i] != t.positions[j]) continue;
      t.weights[j] += t.weights[i];
      t.weights[i] = 0.f;
    }
  }
  return t;
}

// Calls `function(y, x, weight)` for the pixels that the bin counts. The weight of a pixel is a product over the axes,
// and so is the sum over samples: two by two of them share most of their pixels, which come once then.
template <typename Function>
__device__ __forceinline__ void for_pixels(const Region& r, const Place& p, const Sizes& s, const Function& function) {
  const Range rows = samples_on_map(r.y1, r.bin_height, p.ph, r.samples_y, s.height);
  const Range columns = samples_on_map(r.x1, r.bin_width, p.pw, r.samples_x, s.width);
  for (int i = rows.first; i < rows.last; i += 2) {
    const TwoTaps y = two_taps(r.y1, r.bin_height, p.ph, i, rows.last, r.samples_y, static_cast<int>(s.height));
    for (int j = columns.first; j < columns.last; j += 2) {
      const TwoTaps x = two_taps(r.x1, r.bin_width, p.pw, j, columns.last, r.samples_x, static_cast<int>(s.width));
      for (int k = 0; k < 4; ++k) {
        for (int l = 0; l < 4; ++l) {
          const float weight = y.weights[k] * x.weights[l];
          if (weight != 0.f) function(y.positions[k], x.positions[l], weight);
        }
      }
    }
  }
}

}  // namespace mrb::cuda
