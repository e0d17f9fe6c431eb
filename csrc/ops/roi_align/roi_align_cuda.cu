// All maps at once, one thread per output value forward. Backward either scatters with atomic additions, or, where results must not
// depend on the order of threads, gathers: one thread per pixel and a few channels walks over the RoIs.
#include "ops/common/roi.cuh"
#include "ops/roi_align/roi_align_cuda.h"

namespace mrb::cuda {
namespace {

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

template <typename T>
__global__ void forward(Pyramid<const T> pyramid, const float* __restrict__ rois, const int64_t* __restrict__ levels,
                        T* __restrict__ output, int64_t sampling_ratio) {
  MRB_GRID_STRIDE(index, pooled_elements(pyramid.sizes[0])) {
    const Place p = place(index, pyramid.sizes[0]);
    const int level = level_of(levels, p.roi, pyramid);
    const Sizes& s = pyramid.sizes[level < 0 ? 0 : level];
    const Region r = region(rois + p.roi * 5, sampling_ratio, s);
    if (!r.valid || level < 0) {
      store(output + index, r.valid ? 0.f : nanf(""));
      continue;
    }
    const T* map = pyramid.maps[level] + r.image * s.stride_n + p.channel * s.stride_c;
    const Range rows = samples_on_map(r.y1, r.bin_height, p.ph, r.samples_y, s.height);
    const Range columns = samples_on_map(r.x1, r.bin_width, p.pw, r.samples_x, s.width);
    float sum = 0.f;
    for (int i = rows.first; i < rows.last; ++i) {
      const Tap y = tap(r.y1, r.bin_height, p.ph, i, r.samples_y, static_cast<int>(s.height));
      if (y.low_weight == 0.f && y.high_weight == 0.f) continue;
      const T* top = map + y.low * s.stride_h;
      const T* bottom = map + y.high * s.stride_h;
      for (int j = columns.first; j < columns.last; ++j) {
        const Tap x = tap(r.x1, r.bin_width, p.pw, j, r.samples_x, static_cast<int>(s.width));
        if (x.low_weight == 0.f && x.high_weight == 0.f) continue;
        const int64_t left = x.low * s.stride_w, right = x.high * s.stride_w;
        sum += y.low_weight * (x.low_weight * to_float(top[left]) + x.high_weight * to_float(top[right])) +
               y.high_weight * (x.low_weight * to_float(bottom[left]) + x.high_weight * to_float(bottom[right]));
      }
    }
    store(output + index, sum / samples_of(r));
  }
}

template <typename T>
__global__ void backward(Pyramid<float> pyramid, const float* __restrict__ rois, const int64_t* __restrict__ levels,
                         const T* __restrict__ grad_output, int64_t sampling_ratio) {
  MRB_GRID_STRIDE(index, pooled_elements(pyramid.sizes[0])) {
    const Place p = place(index, pyramid.sizes[0]);
    const int level = level_of(levels, p.roi, pyramid);
    if (level < 0) continue;
    const Sizes& s = pyramid.sizes[level];
    const Region r = region(rois + p.roi * 5, sampling_ratio, s);
    if (!r.valid) continue;
    float* map = pyramid.maps[level] + r.image * s.stride_n + p.channel * s.stride_c;
    const float grad = to_float(grad_output[index]) / samples_of(r);
    const auto add = [&](int y, int x, float weight) {
      if (weight != 0.f) atomic_add(map + y * s.stride_h + x * s.stride_w, grad * weight);
    };
    const Range rows = samples_on_map(r.y1, r.bin_height, p.ph, r.samples_y, s.height);
    const Range columns = samples_on_map(r.x1, r.bin_width, p.pw, r.samples_x, s.width);
    for (int i = rows.first; i < rows.last; ++i) {
      const Tap y = tap(r.y1, r.bin_height, p.ph, i, r.samples_y, static_cast<int>(s.height));
      for (int j = columns.first; j < columns.last; ++j) {
        const Tap x = tap(r.x1, r.bin_width, p.pw, j, r.samples_x, static_cast<int>(s.width));
        add(y.low, x.low, y.low_weight * x.low_weight);
        add(y.low, x.high, y.low_weight * x.high_weight);
        add(y.high, x.low, y.high_weight * x.low_weight);
        add(y.high, x.high, y.high_weight * x.high_weight);
      }
    }
  }
}

// Where samples lie that count the pixel `position` of one axis. The borders of the map also gather what lies up to one
// pixel outside.
__device__ inline float nearest_below(int position) { return static_cast<float>(position - 1); }
__device__ inline float nearest_above(int position, int size) {
  return static_cast<float>(position == size - 1 ? size : position + 1);
}

// The bins of one axis that may have a sample next to `position`, and at most one more on either side.
__device__ inline Range near_bins(float start, float bin_size, int bins, int position, int size) {
  const float low = floorf((nearest_below(position) - start) / bin_size) - 1.f;
  const float high = floorf((nearest_above(position, size) - start) / bin_size) + 2.f;
  const float all = static_cast<float>(bins);
  return {static_cast<int>(fminf(fmaxf(low, 0.f), all)), static_cast<int>(fminf(fmaxf(high, 0.f), all))};
}

// The weight with which all samples of a bin together count the pixel `position` of one axis.
__device__ inline float bin_weight(float start, float bin_size, int bin, int samples, int position, int size) {
  const Range near =
      samples_between(nearest_below(position), nearest_above(position, size), start, bin_size, bin, samples);
  float weight = 0.f;
  for (int i = near.first; i < near.last; ++i) {
    const Tap t = tap(start, bin_size, bin, i, samples, size);
    weight += (t.low == position ? t.low_weight : 0.f) + (t.high == position ? t.high_weight : 0.f);
  }
  return weight;
}

constexpr int gathered = 8;  // channels per thread, which share the search for RoIs

inline __host__ __device__ int64_t gathering_threads(const Sizes& s) {
  return s.images * s.height * s.width * ceil_div(s.channels, gathered);
}

template <typename T>
__global__ void backward_deterministic(Pyramid<T> pyramid, const float* __restrict__ rois,
                                       const int64_t* __restrict__ levels, const T* __restrict__ grad_output,
                                       int64_t sampling_ratio, int64_t all_threads) {
  MRB_GRID_STRIDE(place_in_all, all_threads) {
    int level = 0;
    int64_t index = place_in_all;
    for (; index >= gathering_threads(pyramid.sizes[level]); ++level) index -= gathering_threads(pyramid.sizes[level]);
    const Sizes& s = pyramid.sizes[level];
    const int height = static_cast<int>(s.height), width = static_cast<int>(s.width);
    const int64_t pixels = s.images * s.height * s.width;
    const int x = static_cast<int>(index % s.width), y = static_cast<int>(index / s.width % s.height);
    const int64_t image = index / (s.width * s.height) % s.images;
    const int64_t channel = index / pixels * gathered;
    const int count = static_cast<int>(s.channels - channel < gathered ? s.channels - channel : gathered);
    float sums[gathered] = {};
    for (int64_t roi = 0; roi < s.rois; ++roi) {
      if (level_of(levels, roi, pyramid) != level || !is_of_image(rois + roi * 5, image)) continue;
      const Region r = region(rois + roi * 5, sampling_ratio, s);
      if (!r.valid) continue;
      const Range rows = near_bins(r.y1, r.bin_height, static_cast<int>(s.pooled_height), y, height);
      const Range columns = near_bins(r.x1, r.bin_width, static_cast<int>(s.pooled_width), x, width);
      if (columns.last <= columns.first) continue;
      for (int ph = rows.first; ph < rows.last; ++ph) {
        const float row = bin_weight(r.y1, r.bin_height, ph, r.samples_y, y, height) / static_cast<float>(r.samples_y);
        if (row == 0.f) continue;
        for (int pw = columns.first; pw < columns.last; ++pw) {
          const float weight =
              row * bin_weight(r.x1, r.bin_width, pw, r.samples_x, x, width) / static_cast<float>(r.samples_x);
          if (weight == 0.f) continue;
          for (int c = 0; c < count; ++c) {
            sums[c] += weight * to_float(grad_output[output_offset(roi, channel + c, ph, pw, s)]);
          }
        }
      }
    }
    T* pixel = pyramid.maps[level] + image * s.stride_n + y * s.stride_h + x * s.stride_w;
    for (int c = 0; c < count; ++c) store(pixel + (channel + c) * s.stride_c, sums[c]);
  }
}

template <typename T, typename Pointer>
Pyramid<T> pyramid_of(Pointer const* maps, const mrb_cuda_roi_sizes* sizes, int64_t count) {
  Pyramid<T> pyramid{};
  for (int64_t i = 0; i < count; ++i) {
    pyramid.maps[i] = static_cast<T*>(maps[i]);
    pyramid.sizes[i] = sizes[i];
  }
  pyramid.count = static_cast<int>(count);
  return pyramid;
}

bool is_possible(int64_t count) { return count > 0 && count <= mrb_cuda_roi_align_most_maps; }

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_roi_align_forward(const void* const* inputs, const mrb_cuda_roi_sizes* sizes, int64_t count,
                                       const float* rois, const int64_t* levels, void* output, int64_t sampling_ratio,
                                       mrb_scalar_type type, cudaStream_t stream) {
  using namespace mrb::cuda;
  if (!is_possible(count)) return cudaErrorInvalidValue;
  return dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elements(stream, pooled_elements(sizes[0]), forward<T>, pyramid_of<const T>(inputs, sizes, count), rois,
                           levels, static_cast<T*>(output), sampling_ratio);
  });
}

cudaError_t mrb_cuda_roi_align_backward(float* const* grad_inputs, const mrb_cuda_roi_sizes* sizes, int64_t count,
                                        const float* rois, const int64_t* levels, const void* grad_output,
                                        int64_t sampling_ratio, mrb_scalar_type type, cudaStream_t stream) {
  using namespace mrb::cuda;
  if (!is_possible(count)) return cudaErrorInvalidValue;
  return dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elements(stream, pooled_elements(sizes[0]), backward<T>, pyramid_of<float>(grad_inputs, sizes, count),
                           rois, levels, static_cast<const T*>(grad_output), sampling_ratio);
  });
}

cudaError_t mrb_cuda_roi_align_backward_deterministic(void* const* grad_inputs, const mrb_cuda_roi_sizes* sizes,
                                                      int64_t count, const float* rois, const int64_t* levels,
                                                      const void* grad_output, int64_t sampling_ratio,
                                                      mrb_scalar_type type, cudaStream_t stream) {
  using namespace mrb::cuda;
  if (!is_possible(count)) return cudaErrorInvalidValue;
  int64_t threads = 0;
  for (int64_t i = 0; i < count; ++i) threads += gathering_threads(sizes[i]);
  return dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elements(stream, threads, backward_deterministic<T>, pyramid_of<T>(grad_inputs, sizes, count), rois,
                           levels, static_cast<const T*>(grad_output), sampling_ratio, threads);
  });
}
