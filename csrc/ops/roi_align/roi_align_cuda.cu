// One thread per output value forward. Backward either scatters with atomic additions, or, where results must not
// depend on the order of threads, gathers: one thread per pixel and a few channels walks over the RoIs.
#include "ops/common/roi.cuh"
#include "ops/roi_align/roi_align_cuda.h"

namespace mrb::cuda {
namespace {

using Sizes = mrb_cuda_roi_sizes;

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

template <typename T>
__global__ void forward(const T* __restrict__ input, const float* __restrict__ rois, T* __restrict__ output,
                        int64_t sampling_ratio, Sizes s) {
  MRB_GRID_STRIDE(index, pooled_elements(s)) {
    const Place p = place(index, s);
    const Region r = region(rois + p.roi * 5, sampling_ratio, s);
    if (!r.valid) {
      store(output + index, nanf(""));
      continue;
    }
    const T* map = input + r.image * s.stride_n + p.channel * s.stride_c;
    float sum = 0.f;
    for (int i = 0; i < r.samples_y; ++i) {
      const Tap y = tap(r.y1, r.bin_height, p.ph, i, r.samples_y, static_cast<int>(s.height));
      if (y.low_weight == 0.f && y.high_weight == 0.f) continue;
      const T* top = map + y.low * s.stride_h;
      const T* bottom = map + y.high * s.stride_h;
      for (int j = 0; j < r.samples_x; ++j) {
        const Tap x = tap(r.x1, r.bin_width, p.pw, j, r.samples_x, static_cast<int>(s.width));
        if (x.low_weight == 0.f && x.high_weight == 0.f) continue;
        const int64_t left = x.low * s.stride_w, right = x.high * s.stride_w;
        sum += y.low_weight * (x.low_weight * to_float(top[left]) + x.high_weight * to_float(top[right])) +
               y.high_weight * (x.low_weight * to_float(bottom[left]) + x.high_weight * to_float(bottom[right]));
      }
    }
    store(output + index, sum / static_cast<float>(r.samples_y * r.samples_x));
  }
}

template <typename T>
__global__ void backward(const T* __restrict__ grad_output, const float* __restrict__ rois,
                         float* __restrict__ grad_input, int64_t sampling_ratio, Sizes s) {
  MRB_GRID_STRIDE(index, pooled_elements(s)) {
    const Place p = place(index, s);
    const Region r = region(rois + p.roi * 5, sampling_ratio, s);
    if (!r.valid) continue;
    float* map = grad_input + r.image * s.stride_n + p.channel * s.stride_c;
    const float grad = to_float(grad_output[index]) / static_cast<float>(r.samples_y * r.samples_x);
    const auto add = [&](int y, int x, float weight) {
      if (weight != 0.f) atomic_add(map + y * s.stride_h + x * s.stride_w, grad * weight);
    };
    for (int i = 0; i < r.samples_y; ++i) {
      const Tap y = tap(r.y1, r.bin_height, p.ph, i, r.samples_y, static_cast<int>(s.height));
      for (int j = 0; j < r.samples_x; ++j) {
        const Tap x = tap(r.x1, r.bin_width, p.pw, j, r.samples_x, static_cast<int>(s.width));
        add(y.low, x.low, y.low_weight * x.low_weight);
        add(y.low, x.high, y.low_weight * x.high_weight);
        add(y.high, x.low, y.high_weight * x.low_weight);
        add(y.high, x.high, y.high_weight * x.high_weight);
      }
    }
  }
}

// The bins first .. last of one axis that may have a sample next to `position`: an interval that is at most one bin too
// wide on either side. The borders of the map also gather what lies up to one pixel outside.
__device__ inline void near_bins(float start, float bin_size, int bins, int position, int size, int& first, int& last) {
  const float from = static_cast<float>(position == 0 ? -1 : position - 1);
  const float to = static_cast<float>(position == size - 1 ? size : position + 1);
  const float low = floorf((from - start) / bin_size) - 1.f, high = floorf((to - start) / bin_size) + 1.f;
  first = static_cast<int>(fminf(fmaxf(low, 0.f), static_cast<float>(bins)));
  last = static_cast<int>(fminf(fmaxf(high, -1.f), static_cast<float>(bins - 1)));
}

// The weight with which all samples of a bin together count the pixel `position` of one axis.
__device__ inline float bin_weight(float start, float bin_size, int bin, int samples, int position, int size) {
  float weight = 0.f;
  for (int i = 0; i < samples; ++i) {
    const Tap t = tap(start, bin_size, bin, i, samples, size);
    weight += (t.low == position ? t.low_weight : 0.f) + (t.high == position ? t.high_weight : 0.f);
  }
  return weight;
}

constexpr int gathered = 8;  // channels per thread, which share the search for RoIs

template <typename T>
__global__ void backward_deterministic(const T* __restrict__ grad_output, const float* __restrict__ rois,
                                       T* __restrict__ grad_input, int64_t sampling_ratio, Sizes s) {
  const int height = static_cast<int>(s.height), width = static_cast<int>(s.width);
  const int64_t pixels = s.images * s.height * s.width;
  MRB_GRID_STRIDE(index, pixels * ceil_div(s.channels, gathered)) {
    const int x = static_cast<int>(index % s.width), y = static_cast<int>(index / s.width % s.height);
    const int64_t image = index / (s.width * s.height) % s.images;
    const int64_t channel = index / pixels * gathered;
    const int count = static_cast<int>(s.channels - channel < gathered ? s.channels - channel : gathered);
    float sums[gathered] = {};
    for (int64_t roi = 0; roi < s.rois; ++roi) {
      if (!is_of_image(rois + roi * 5, image)) continue;
      const Region r = region(rois + roi * 5, sampling_ratio, s);
      if (!r.valid) continue;
      int top, bottom, left, right;
      near_bins(r.y1, r.bin_height, static_cast<int>(s.pooled_height), y, height, top, bottom);
      near_bins(r.x1, r.bin_width, static_cast<int>(s.pooled_width), x, width, left, right);
      if (right < left) continue;
      for (int ph = top; ph <= bottom; ++ph) {
        const float row = bin_weight(r.y1, r.bin_height, ph, r.samples_y, y, height) / static_cast<float>(r.samples_y);
        if (row == 0.f) continue;
        for (int pw = left; pw <= right; ++pw) {
          const float weight =
              row * bin_weight(r.x1, r.bin_width, pw, r.samples_x, x, width) / static_cast<float>(r.samples_x);
          if (weight == 0.f) continue;
          for (int c = 0; c < count; ++c) {
            sums[c] += weight * to_float(grad_output[output_offset(roi, channel + c, ph, pw, s)]);
          }
        }
      }
    }
    T* pixel = grad_input + image * s.stride_n + y * s.stride_h + x * s.stride_w;
    for (int c = 0; c < count; ++c) store(pixel + (channel + c) * s.stride_c, sums[c]);
  }
}

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_roi_align_forward(const void* input, const float* rois, void* output,
                                       const mrb_cuda_roi_sizes* sizes, int64_t sampling_ratio, mrb_scalar_type type,
                                       cudaStream_t stream) {
  using namespace mrb::cuda;
  return dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elements(stream, pooled_elements(*sizes), forward<T>, static_cast<const T*>(input), rois,
                           static_cast<T*>(output), sampling_ratio, *sizes);
  });
}

cudaError_t mrb_cuda_roi_align_backward(const void* grad_output, const float* rois, float* grad_input,
                                        const mrb_cuda_roi_sizes* sizes, int64_t sampling_ratio, mrb_scalar_type type,
                                        cudaStream_t stream) {
  using namespace mrb::cuda;
  return dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elements(stream, pooled_elements(*sizes), backward<T>, static_cast<const T*>(grad_output), rois,
                           grad_input, sampling_ratio, *sizes);
  });
}

cudaError_t mrb_cuda_roi_align_backward_deterministic(const void* grad_output, const float* rois, void* grad_input,
                                                      const mrb_cuda_roi_sizes* sizes, int64_t sampling_ratio,
                                                      mrb_scalar_type type, cudaStream_t stream) {
  using namespace mrb::cuda;
  const int64_t threads = sizes->images * sizes->height * sizes->width * ceil_div(sizes->channels, gathered);
  return dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elements(stream, threads, backward_deterministic<T>, static_cast<const T*>(grad_output), rois,
                           static_cast<T*>(grad_input), sampling_ratio, *sizes);
  });
}
