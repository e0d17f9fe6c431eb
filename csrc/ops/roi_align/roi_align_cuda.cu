// All maps at once. One thread has a value of the output, or, where the channels of a pixel lie side by side, several
// channels of a bin, which share the search for its samples. Backward either scatters with atomic additions, or, where
// results must not depend on the order of threads, gathers: one thread per pixel and a few channels walks over the
// RoIs.
#include "cuda/vectors.cuh"
#include "ops/roi_align/roi_align_region.cuh"

namespace mrb::cuda {
namespace {

// The same arithmetic for every `width`: what is fused is said, not left to the compiler.
__device__ __forceinline__ float interpolated(const Tap& y, const Tap& x, float top_left, float top_right,
                                              float bottom_left, float bottom_right) {
  const float top = fmaf(x.low_weight, top_left, __fmul_rn(x.high_weight, top_right));
  const float bottom = fmaf(x.low_weight, bottom_left, __fmul_rn(x.high_weight, bottom_right));
  return fmaf(y.low_weight, top, __fmul_rn(y.high_weight, bottom));
}

// A thread for `width` channels of a bin: one, or as many as takes_vectors() allows.
template <typename T, int width>
__global__ void forward(Pyramid<const T> pyramid, const float* __restrict__ rois, const int64_t* __restrict__ levels,
                        T* __restrict__ output, int64_t sampling_ratio) {
  using Values = Vector<T, width>;
  MRB_GRID_STRIDE(index, pooled_elements(pyramid.sizes[0]) / width) {
    const Place p = place(index * width, pyramid.sizes[0]);
    const int level = level_of(levels, p.roi, pyramid);
    const Sizes& s = pyramid.sizes[level < 0 ? 0 : level];
    const Region r = region(rois + p.roi * 5, sampling_ratio, s);
    float sums[width] = {};
    if (r.valid && level >= 0) {
      const T* map = pyramid.maps[level] + r.image * s.stride_n + p.channel * s.stride_c;
      for_samples(r, p, s, [&](const Tap& y, const Tap& x) {
        const auto at = [&](int row, int column) {
          return *reinterpret_cast<const Values*>(map + row * s.stride_h + column * s.stride_w);
        };
        const Values top_left = at(y.low, x.low), top_right = at(y.low, x.high);
        const Values bottom_left = at(y.high, x.low), bottom_right = at(y.high, x.high);
        for (int c = 0; c < width; ++c) {
          sums[c] += interpolated(y, x, to_float(top_left.values[c]), to_float(top_right.values[c]),
                                  to_float(bottom_left.values[c]), to_float(bottom_right.values[c]));
        }
      });
    }
    Values result;
    for (int c = 0; c < width; ++c) store(&result.values[c], r.valid ? sums[c] / samples_of(r) : nanf(""));
    reinterpret_cast<Values*>(output)[index] = result;
  }
}

template <typename T, int width>
__global__ void backward(Pyramid<float> pyramid, const float* __restrict__ rois, const int64_t* __restrict__ levels,
                         const T* __restrict__ grad_output, int64_t sampling_ratio) {
  MRB_GRID_STRIDE(index, pooled_elements(pyramid.sizes[0]) / width) {
    const Place p = place(index * width, pyramid.sizes[0]);
    const int level = level_of(levels, p.roi, pyramid);
    if (level < 0) continue;
    const Sizes& s = pyramid.sizes[level];
    const Region r = region(rois + p.roi * 5, sampling_ratio, s);
    if (!r.valid) continue;
    float* map = pyramid.maps[level] + r.image * s.stride_n + p.channel * s.stride_c;
    const Vector<T, width> grads = reinterpret_cast<const Vector<T, width>*>(grad_output)[index];
    Vector<float, width> shares;
    for (int c = 0; c < width; ++c) shares.values[c] = to_float(grads.values[c]) / samples_of(r);
    for_pixels(r, p, s, [&](int y, int x, float weight) {
      Vector<float, width> weighted;
      for (int c = 0; c < width; ++c) weighted.values[c] = shares.values[c] * weight;
      atomic_add(map + y * s.stride_h + x * s.stride_w, weighted);
    });
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
          // Of a fixed number, so that sums stay in registers.
          for (int c = 0; c < gathered; ++c) {
            if (c < count) sums[c] += weight * to_float(grad_output[output_offset(roi, channel + c, ph, pw, s)]);
          }
        }
      }
    }
    T* pixel = pyramid.maps[level] + image * s.stride_n + y * s.stride_h + x * s.stride_w;
    for (int c = 0; c < gathered; ++c) {
      if (c < count) store(pixel + (channel + c) * s.stride_c, sums[c]);
    }
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

// Whether a thread can take `width` channels: the maps (of `map_bytes` a value) and what is pooled (of `pooled_bytes`)
// have them side by side, whole vectors of them, which start where vectors may.
template <typename Pointer>
bool takes_vectors(Pointer const* maps, const mrb_cuda_roi_sizes* sizes, int64_t count, const void* pooled, int width,
                   size_t map_bytes, size_t pooled_bytes) {
  for (int64_t i = 0; i < count; ++i) {
    const Sizes& s = sizes[i];
    const bool side_by_side = s.channels_last && s.stride_c == 1;
    const bool whole =
        s.channels % width == 0 && s.stride_n % width == 0 && s.stride_h % width == 0 && s.stride_w % width == 0;
    if (!side_by_side || !whole || !are_aligned({maps[i]}, width * map_bytes)) return false;
  }
  return are_aligned({pooled}, width * pooled_bytes);
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
    constexpr int width = Vector<T>::width;
    const bool vectors = takes_vectors(inputs, sizes, count, output, width, sizeof(T), sizeof(T));
    return launch_elements(stream, pooled_elements(sizes[0]) / (vectors ? width : 1),
                           vectors ? forward<T, width> : forward<T, 1>, pyramid_of<const T>(inputs, sizes, count), rois,
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
    constexpr int width = Vector<float>::width;
    const bool vectors = takes_vectors(grad_inputs, sizes, count, grad_output, width, sizeof(float), sizeof(T));
    return launch_elements(stream, pooled_elements(sizes[0]) / (vectors ? width : 1),
                           vectors ? backward<T, width> : backward<T, 1>, pyramid_of<float>(grad_inputs, sizes, count),
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
