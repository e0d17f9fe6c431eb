// One thread per output value forward. Backward scatters with atomic additions or gathers in a fixed order, as
// RoIAlign's, but sums in double.
#include <cfloat>

#include "ops/common/roi.cuh"
#include "ops/roi_pool/roi_pool_cuda.h"

namespace mrb::cuda {
namespace {

using Sizes = mrb_cuda_roi_sizes;

// One axis of a RoI on the feature map: bin b covers the pixels floor(b * bin) + first to ceil((b + 1) * bin) + first.
struct Axis {
  int first;
  float bin;

  __device__ int low(int b, int size) const { return clip(static_cast<int>(floorf(__fmul_rn(b, bin))), size); }
  __device__ int high(int b, int size) const { return clip(static_cast<int>(ceilf(__fmul_rn(b + 1, bin))), size); }
  __device__ int clip(int offset, int size) const {
    const int v = offset + first;
    return v < 0 ? 0 : v > size ? size : v;
  }
};

struct Region {
  bool valid;
  int64_t image;
  Axis x, y;
};

__device__ inline Axis axis(float start, float end, int64_t bins) {
  Axis a;
  a.first = static_cast<int>(roundf(start));  // half away from zero
  const int length = static_cast<int>(roundf(end)) - a.first + 1;
  a.bin = static_cast<float>(length > 1 ? length : 1) / static_cast<float>(bins);
  return a;
}

__device__ inline Region region(const float* roi, const Sizes& s) {
  Region r{};
  r.valid = is_valid_roi(roi, s);
  if (!r.valid) return r;
  r.image = static_cast<int64_t>(roi[0]);
  r.x = axis(roi[1] * s.spatial_scale, roi[3] * s.spatial_scale, s.pooled_width);
  r.y = axis(roi[2] * s.spatial_scale, roi[4] * s.spatial_scale, s.pooled_height);
  return r;
}

template <typename T>
__global__ void forward(const T* __restrict__ input, const float* __restrict__ rois, T* __restrict__ output,
                        int32_t* __restrict__ argmax, Sizes s) {
  const int height = static_cast<int>(s.height), width = static_cast<int>(s.width);
  MRB_GRID_STRIDE(index, pooled_elements(s)) {
    const Place p = place(index, s);
    const Region r = region(rois + p.roi * 5, s);
    if (!r.valid) {
      store(output + index, nanf(""));
      argmax[index] = -1;
      continue;
    }
    const T* map = input + r.image * s.stride_n + p.channel * s.stride_c;
    const int top = r.y.low(p.ph, height), bottom = r.y.high(p.ph, height);
    const int left = r.x.low(p.pw, width), right = r.x.high(p.pw, width);
    float best = bottom <= top || right <= left ? 0.f : -FLT_MAX;
    int32_t best_index = -1;
    for (int y = top; y < bottom; ++y) {
      for (int x = left; x < right; ++x) {
        const float v = to_float(map[y * s.stride_h + x * s.stride_w]);
        if (v > best) {
          best = v;
          best_index = y * width + x;
        }
      }
    }
    store(output + index, best);
    argmax[index] = best_index;
  }
}

template <typename T>
__global__ void backward(const T* __restrict__ grad_output, const int32_t* __restrict__ argmax,
                         const float* __restrict__ rois, double* __restrict__ grad_input, Sizes s) {
  MRB_GRID_STRIDE(index, pooled_elements(s)) {
    const int32_t best = argmax[index];
    if (best < 0) continue;
    const Place p = place(index, s);
    const int64_t y = best / s.width, x = best % s.width;
    const auto image = static_cast<int64_t>(rois[p.roi * 5]);
    atomicAdd(grad_input + image * s.stride_n + p.channel * s.stride_c + y * s.stride_h + x * s.stride_w,
              static_cast<double>(to_float(grad_output[index])));
  }
}

template <typename T>
__global__ void backward_deterministic(const T* __restrict__ grad_output, const int32_t* __restrict__ argmax,
                                       const float* __restrict__ rois, T* __restrict__ grad_input, Sizes s) {
  const int height = static_cast<int>(s.height), width = static_cast<int>(s.width);
  const int rows = static_cast<int>(s.pooled_height), columns = static_cast<int>(s.pooled_width);
  const int64_t pixels = s.images * s.height * s.width;
  MRB_GRID_STRIDE(index, pixels * s.channels) {
    const int x = static_cast<int>(index % s.width), y = static_cast<int>(index / s.width % s.height);
    const int64_t image = index / (s.width * s.height) % s.images;
    const int64_t channel = index / pixels;
    double sum = 0;
    for (int64_t roi = 0; roi < s.rois; ++roi) {
      if (!is_of_image(rois + roi * 5, image)) continue;
      const Region r = region(rois + roi * 5, s);
      if (!r.valid) continue;
      if (y < r.y.low(0, height) || y >= r.y.high(rows - 1, height)) continue;
      if (x < r.x.low(0, width) || x >= r.x.high(columns - 1, width)) continue;
      for (int ph = 0; ph < rows; ++ph) {
        if (y < r.y.low(ph, height) || y >= r.y.high(ph, height)) continue;
        for (int pw = 0; pw < columns; ++pw) {
          if (x < r.x.low(pw, width) || x >= r.x.high(pw, width)) continue;
          const int64_t offset = output_offset(roi, channel, ph, pw, s);
          if (argmax[offset] == y * width + x) sum += to_float(grad_output[offset]);
        }
      }
    }
    store(grad_input + image * s.stride_n + channel * s.stride_c + y * s.stride_h + x * s.stride_w,
          static_cast<float>(sum));
  }
}

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_roi_pool_forward(const void* input, const float* rois, void* output, int32_t* argmax,
                                      const mrb_cuda_roi_sizes* sizes, mrb_scalar_type type, cudaStream_t stream) {
  using namespace mrb::cuda;
  return dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elements(stream, pooled_elements(*sizes), forward<T>, static_cast<const T*>(input), rois,
                           static_cast<T*>(output), argmax, *sizes);
  });
}

cudaError_t mrb_cuda_roi_pool_backward(const void* grad_output, const int32_t* argmax, const float* rois,
                                       double* grad_input, const mrb_cuda_roi_sizes* sizes, mrb_scalar_type type,
                                       cudaStream_t stream) {
  using namespace mrb::cuda;
  return dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elements(stream, pooled_elements(*sizes), backward<T>, static_cast<const T*>(grad_output), argmax,
                           rois, grad_input, *sizes);
  });
}

cudaError_t mrb_cuda_roi_pool_backward_deterministic(const void* grad_output, const int32_t* argmax, const float* rois,
                                                     void* grad_input, const mrb_cuda_roi_sizes* sizes,
                                                     mrb_scalar_type type, cudaStream_t stream) {
  using namespace mrb::cuda;
  const int64_t threads = sizes->images * sizes->channels * sizes->height * sizes->width;
  return dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elements(stream, threads, backward_deterministic<T>, static_cast<const T*>(grad_output), argmax, rois,
                           static_cast<T*>(grad_input), *sizes);
  });
}
