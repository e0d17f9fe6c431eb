// One thread a value of the output, as in the original's deform_pool_kernel_cuda.cu. Instead of storing how many
// samples of a bin fell inside the map, the way back counts them again.
#include "ops/deform_roi_pool/deform_roi_pool_cuda.h"

#include <cmath>

#include "cuda/launch.cuh"

namespace mrb::cuda {
namespace {

using Shape = mrb_cuda_deform_roi_pool_shape;

// Where one value of the output reads.
struct Bin {
  int64_t roi, channel;     // of the output
  bool exists;              // whether the RoI's image does
  int64_t plane;            // image and channel of the input
  int64_t trans_x, trans_y;  // indices of the offsets
  float roi_width, roi_height;
  float x, y, step_x, step_y;  // the first sample, and from one to the next
};

int64_t outputs(const Shape& s) {
  return s.rois * s.geometry.output_dim * s.geometry.pooled_size * s.geometry.pooled_size;
}

// a * b + c in two roundings, as on the CPU: at the border of the map a sample counts or does not.
__device__ float mul_add(float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); }

// The part of an axis in which a position lies.
__device__ int64_t clamped(float index, int64_t parts) {
  const auto whole = static_cast<int64_t>(floorf(index));
  return whole < 0 ? 0 : whole >= parts ? parts - 1 : whole;
}

template <typename T>
__device__ Bin bin_at(int64_t i, const Shape& s, const float* rois, const T* trans) {
  const auto& g = s.geometry;
  const auto size = g.pooled_size;
  const auto pw = i % size, ph = i / size % size;
  Bin bin;
  bin.channel = i / (size * size) % g.output_dim;
  bin.roi = i / (size * size) / g.output_dim;

  const float* box = rois + bin.roi * 5;
  const float scale = static_cast<float>(g.spatial_scale), deviation = static_cast<float>(g.trans_std);
  const float x1 = mul_add(roundf(box[1]), scale, -0.5f), y1 = mul_add(roundf(box[2]), scale, -0.5f);
  bin.roi_width = fmaxf(mul_add(roundf(box[3]) + 1.f, scale, -0.5f) - x1, 0.1f);
  bin.roi_height = fmaxf(mul_add(roundf(box[4]) + 1.f, scale, -0.5f) - y1, 0.1f);
  const float bin_width = bin.roi_width / static_cast<float>(size);
  const float bin_height = bin.roi_height / static_cast<float>(size);
  bin.x = mul_add(static_cast<float>(pw), bin_width, x1);
  bin.y = mul_add(static_cast<float>(ph), bin_height, y1);
  bin.step_x = bin_width / static_cast<float>(g.samples_per_part);
  bin.step_y = bin_height / static_cast<float>(g.samples_per_part);

  const float bins = static_cast<float>(size);
  const auto part = [&](int64_t position) {
    return clamped(static_cast<float>(position) / bins * static_cast<float>(g.part_size), g.part_size);
  };
  const auto cell = [&](int64_t position) {
    return clamped(static_cast<float>(position) * static_cast<float>(g.group_size) / bins, g.group_size);
  };
  const auto klass = bin.channel / (g.output_dim / s.classes);
  bin.trans_x = ((bin.roi * s.classes + klass) * 2 * g.part_size + part(ph)) * g.part_size + part(pw);
  bin.trans_y = bin.trans_x + g.part_size * g.part_size;
  if (trans != nullptr) {
    bin.x = mul_add(to_float(trans[bin.trans_x]) * deviation, bin.roi_width, bin.x);
    bin.y = mul_add(to_float(trans[bin.trans_y]) * deviation, bin.roi_height, bin.y);
  }
  bin.exists = box[0] >= 0 && box[0] < static_cast<float>(s.images);
  const auto image = bin.exists ? static_cast<int64_t>(box[0]) : 0;
  bin.plane = ((image * g.output_dim + bin.channel) * g.group_size + cell(ph)) * g.group_size + cell(pw);
  return bin;
}

// Calls body(first pixel of the row above and below, column left and right, distances) for every sample inside the map.
template <typename Body>
__device__ void for_each_sample(const Bin& bin, const Shape& s, const Body& body) {
  const float right = static_cast<float>(s.width), bottom = static_cast<float>(s.height);
  const auto samples = s.geometry.samples_per_part;
  for (int64_t ih = 0; ih < samples; ++ih) {
    for (int64_t iw = 0; iw < samples; ++iw) {
      float x = mul_add(static_cast<float>(iw), bin.step_x, bin.x);
      float y = mul_add(static_cast<float>(ih), bin.step_y, bin.y);
      if (!(x >= -0.5f && x <= right - 0.5f && y >= -0.5f && y <= bottom - 0.5f)) continue;
      x = fminf(fmaxf(x, 0.f), right - 1.f);
      y = fminf(fmaxf(y, 0.f), bottom - 1.f);
      const auto x0 = static_cast<int64_t>(floorf(x)), y0 = static_cast<int64_t>(floorf(y));
      const auto x1 = static_cast<int64_t>(ceilf(x)), y1 = static_cast<int64_t>(ceilf(y));
      body(y0 * s.width, y1 * s.width, x0, x1, x - static_cast<float>(x0), y - static_cast<float>(y0));
    }
  }
}

template <typename T>
__global__ void forward_kernel(int64_t count, const T* input, const float* rois, const T* trans, Shape s, T* output) {
  MRB_GRID_STRIDE(i, count) {
    const auto bin = bin_at(i, s, rois, trans);
    const T* plane = input + bin.plane * s.height * s.width;
    float sum = 0, samples = 0;
    for_each_sample(bin, s, [&](int64_t above, int64_t below, int64_t left, int64_t right, float dx, float dy) {
      sum += (1.f - dx) * (1.f - dy) * to_float(plane[above + left]) + dx * (1.f - dy) * to_float(plane[above + right]) +
             (1.f - dx) * dy * to_float(plane[below + left]) + dx * dy * to_float(plane[below + right]);
      samples += 1;
    });
    store(output + i, !bin.exists ? NAN : samples == 0 ? 0.f : sum / samples);
  }
}

template <typename T>
__global__ void backward_kernel(int64_t count, const T* grad_output, const T* input, const float* rois, const T* trans,
                                Shape s, float* grad_input, float* grad_trans) {
  MRB_GRID_STRIDE(i, count) {
    const auto bin = bin_at(i, s, rois, trans);
    if (!bin.exists) continue;
    float samples = 0;
    for_each_sample(bin, s, [&](int64_t, int64_t, int64_t, int64_t, float, float) { samples += 1; });
    if (samples == 0) continue;
    const float grad = to_float(grad_output[i]) / samples;
    const auto first = bin.plane * s.height * s.width;
    float along_x = 0, along_y = 0;
    for_each_sample(bin, s, [&](int64_t above, int64_t below, int64_t left, int64_t right, float dx, float dy) {
      float* grads = grad_input + first;
      atomic_add(grads + above + left, (1.f - dx) * (1.f - dy) * grad);
      atomic_add(grads + above + right, dx * (1.f - dy) * grad);
      atomic_add(grads + below + left, (1.f - dx) * dy * grad);
      atomic_add(grads + below + right, dx * dy * grad);
      if (grad_trans == nullptr) return;
      const T* plane = input + first;
      const float above_left = to_float(plane[above + left]), above_right = to_float(plane[above + right]);
      const float below_left = to_float(plane[below + left]), below_right = to_float(plane[below + right]);
      along_x += (above_right - above_left) * (1.f - dy) + (below_right - below_left) * dy;
      along_y += (below_left - above_left) * (1.f - dx) + (below_right - above_right) * dx;
    });
    if (grad_trans == nullptr) continue;
    const float deviation = static_cast<float>(s.geometry.trans_std);
    atomic_add(grad_trans + bin.trans_x, along_x * grad * deviation * bin.roi_width);
    atomic_add(grad_trans + bin.trans_y, along_y * grad * deviation * bin.roi_height);
  }
}

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_deform_roi_pool_forward(const void* input, const float* rois, const void* trans,
                                             const mrb_cuda_deform_roi_pool_shape* shape, mrb_scalar_type type,
                                             void* output, cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const auto count = mrb::cuda::outputs(*shape);
    return mrb::cuda::launch_elements(stream, count, mrb::cuda::forward_kernel<T>, count,
                                      static_cast<const T*>(input), rois, static_cast<const T*>(trans), *shape,
                                      static_cast<T*>(output));
  });
}

cudaError_t mrb_cuda_deform_roi_pool_backward(const void* grad_output, const void* input, const float* rois,
                                              const void* trans, const mrb_cuda_deform_roi_pool_shape* shape,
                                              mrb_scalar_type type, float* grad_input, float* grad_trans,
                                              cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const auto count = mrb::cuda::outputs(*shape);
    return mrb::cuda::launch_elements(stream, count, mrb::cuda::backward_kernel<T>, count,
                                      static_cast<const T*>(grad_output), static_cast<const T*>(input), rois,
                                      static_cast<const T*>(trans), *shape, grad_input, grad_trans);
  });
}
