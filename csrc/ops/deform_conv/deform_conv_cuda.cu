// What a matrix product leaves to do (the original's deform_conv_kernel_cuda.cu): sampling the input into columns, and
// the two ways back. A thread works out where one kernel position of one output position reads, and then goes through
// channels, which all read there.
#include "ops/deform_conv/deform_conv_cuda.h"

#include "cuda/launch.cuh"

namespace mrb::cuda {
namespace {

using Shape = mrb_cuda_deform_conv_shape;

// Channels of a thread: enough to pay for the divisions and the sampling point, few enough for many threads.
constexpr int64_t chunk = 16;

// Up to four pixels (-1: outside the map), their weights, and the derivatives of the weights with respect to the
// sampling point.
struct Sample {
  int64_t pixels[4];
  float weights[4], dy[4], dx[4];
  float mask;
};

// One kernel position (`tap`) of one output position of an image, for the channels first .. last of a deformable group.
struct Place {
  int64_t image, deformable_group, tap, position;
  int64_t first, last;
};

__host__ __device__ int64_t positions(const Shape& s) { return s.out_height * s.out_width; }
__host__ __device__ int64_t taps(const Shape& s) { return s.kernel_h * s.kernel_w; }
__host__ __device__ int64_t group_channels(const Shape& s) { return s.channels / s.geometry.deformable_groups; }

// Threads beside each other have positions beside each other: that is how columns and offsets lie in memory.
__device__ Place place_at(int64_t i, const Shape& s, int64_t channels_per_thread) {
  Place place;
  place.position = i % positions(s);
  i /= positions(s);
  place.image = i % s.images;
  i /= s.images;
  place.tap = i % taps(s);
  i /= taps(s);
  const auto chunks = (group_channels(s) + channels_per_thread - 1) / channels_per_thread;
  place.deformable_group = i / chunks;
  const auto group_first = place.deformable_group * group_channels(s);
  const auto group_last = group_first + group_channels(s);
  place.first = group_first + i % chunks * channels_per_thread;
  place.last = place.first + channels_per_thread < group_last ? place.first + channels_per_thread : group_last;
  return place;
}

int64_t places(const Shape& s, int64_t channels_per_thread) {
  const auto chunks = (group_channels(s) + channels_per_thread - 1) / channels_per_thread;
  return s.geometry.deformable_groups * chunks * taps(s) * s.images * positions(s);
}

// The plane of an image, a deformable group and a kernel position in the mask; the offset has two for each.
__device__ int64_t plane_of(const Place& place, const Shape& s) {
  return (place.image * s.geometry.deformable_groups + place.deformable_group) * taps(s) + place.tap;
}

__device__ int64_t column_index(const Place& place, int64_t channel, const Shape& s) {
  return ((channel * taps(s) + place.tap) * s.images + place.image) * positions(s) + place.position;
}

__device__ void set_corner(Sample& sample, int corner, int64_t row, int64_t column, const Shape& s, float wy, float wx,
                           float sign_y, float sign_x) {
  const bool inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
  sample.pixels[corner] = inside ? row * s.width + column : -1;
  sample.weights[corner] = wy * wx;
  sample.dy[corner] = sign_y * wx;
  sample.dx[corner] = sign_x * wy;
}

template <typename T>
__device__ Sample sample_at(const Place& place, const Shape& s, const T* offset, const T* mask) {
  const auto& g = s.geometry;
  const auto plane = plane_of(place, s), count = positions(s);
  const auto row = place.position / s.out_width * g.stride_h - g.pad_h + place.tap / s.kernel_w * g.dilation_h;
  const auto column = place.position % s.out_width * g.stride_w - g.pad_w + place.tap % s.kernel_w * g.dilation_w;
  const float y = static_cast<float>(row) + to_float(offset[2 * plane * count + place.position]);
  const float x = static_cast<float>(column) + to_float(offset[(2 * plane + 1) * count + place.position]);
  Sample sample;
  sample.mask = mask == nullptr ? 1.f : to_float(mask[plane * count + place.position]);
  if (!(y > -1 && x > -1 && y < static_cast<float>(s.height) && x < static_cast<float>(s.width))) {
    for (int k = 0; k < 4; ++k) set_corner(sample, k, -1, -1, s, 0, 0, 0, 0);
    return sample;
  }
  const float y_floor = floorf(y), x_floor = floorf(x);
  const auto y0 = static_cast<int64_t>(y_floor), x0 = static_cast<int64_t>(x_floor);
  const float y_part = y - y_floor, x_part = x - x_floor;
  set_corner(sample, 0, y0, x0, s, 1 - y_part, 1 - x_part, -1, -1);
  set_corner(sample, 1, y0, x0 + 1, s, 1 - y_part, x_part, -1, 1);
  set_corner(sample, 2, y0 + 1, x0, s, y_part, 1 - x_part, 1, -1);
  set_corner(sample, 3, y0 + 1, x0 + 1, s, y_part, x_part, 1, 1);
  return sample;
}

template <typename T>
__global__ void columns_kernel(int64_t count, const T* input, const T* offset, const T* mask, Shape s, T* columns) {
  const auto pixels = s.height * s.width;
  MRB_GRID_STRIDE(i, count) {
    const auto place = place_at(i, s, chunk);
    const auto sample = sample_at(place, s, offset, mask);
    for (auto c = place.first; c < place.last; ++c) {
      const T* plane = input + (place.image * s.channels + c) * pixels;
      float value = 0;
      for (int k = 0; k < 4; ++k) {
        if (sample.pixels[k] >= 0) value += sample.weights[k] * to_float(plane[sample.pixels[k]]);
      }
      store(columns + column_index(place, c, s), value * sample.mask);
    }
  }
}

template <typename T>
__global__ void input_kernel(int64_t count, const T* grad_columns, const T* offset, const T* mask, Shape s,
                             float* grad_input) {
  const auto pixels = s.height * s.width;
  MRB_GRID_STRIDE(i, count) {
    const auto place = place_at(i, s, chunk);
    const auto sample = sample_at(place, s, offset, mask);
    for (auto c = place.first; c < place.last; ++c) {
      float* plane = grad_input + (place.image * s.channels + c) * pixels;
      const float grad = to_float(grad_columns[column_index(place, c, s)]) * sample.mask;
      for (int k = 0; k < 4; ++k) {
        if (sample.pixels[k] >= 0) atomic_add(plane + sample.pixels[k], sample.weights[k] * grad);
      }
    }
  }
}

// Here a thread has every channel of the deformable group, so that it can write the sums.
template <typename T>
__global__ void offset_kernel(int64_t count, const T* grad_columns, const T* input, const T* offset, const T* mask,
                              Shape s, T* grad_offset, T* grad_mask) {
  const auto pixels = s.height * s.width;
  MRB_GRID_STRIDE(i, count) {
    const auto place = place_at(i, s, group_channels(s));
    const auto sample = sample_at(place, s, offset, mask);
    float products[4] = {};
    for (auto c = place.first; c < place.last; ++c) {
      const T* plane = input + (place.image * s.channels + c) * pixels;
      const float grad = to_float(grad_columns[column_index(place, c, s)]);
      for (int k = 0; k < 4; ++k) {
        if (sample.pixels[k] >= 0) products[k] += grad * to_float(plane[sample.pixels[k]]);
      }
    }
    float along_y = 0, along_x = 0, value = 0;
    for (int k = 0; k < 4; ++k) {
      along_y += sample.dy[k] * products[k];
      along_x += sample.dx[k] * products[k];
      value += sample.weights[k] * products[k];
    }
    const auto plane = plane_of(place, s);
    store(grad_offset + 2 * plane * positions(s) + place.position, along_y * sample.mask);
    store(grad_offset + (2 * plane + 1) * positions(s) + place.position, along_x * sample.mask);
    if (grad_mask != nullptr) store(grad_mask + plane * positions(s) + place.position, value);
  }
}

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_deform_conv_columns(const void* input, const void* offset, const void* mask,
                                         const mrb_cuda_deform_conv_shape* shape, mrb_scalar_type type, void* columns,
                                         cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const auto count = mrb::cuda::places(*shape, mrb::cuda::chunk);
    return mrb::cuda::launch_elements(stream, count, mrb::cuda::columns_kernel<T>, count,
                                      static_cast<const T*>(input), static_cast<const T*>(offset),
                                      static_cast<const T*>(mask), *shape, static_cast<T*>(columns));
  });
}

cudaError_t mrb_cuda_deform_conv_backward_input(const void* grad_columns, const void* offset, const void* mask,
                                                const mrb_cuda_deform_conv_shape* shape, mrb_scalar_type type,
                                                float* grad_input, cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const auto count = mrb::cuda::places(*shape, mrb::cuda::chunk);
    return mrb::cuda::launch_elements(stream, count, mrb::cuda::input_kernel<T>, count,
                                      static_cast<const T*>(grad_columns), static_cast<const T*>(offset),
                                      static_cast<const T*>(mask), *shape, grad_input);
  });
}

cudaError_t mrb_cuda_deform_conv_backward_offset(const void* grad_columns, const void* input, const void* offset,
                                                 const void* mask, const mrb_cuda_deform_conv_shape* shape,
                                                 mrb_scalar_type type, void* grad_offset, void* grad_mask,
                                                 cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const auto count = mrb::cuda::places(*shape, mrb::cuda::group_channels(*shape));
    return mrb::cuda::launch_elements(stream, count, mrb::cuda::offset_kernel<T>, count,
                                      static_cast<const T*>(grad_columns), static_cast<const T*>(input),
                                      static_cast<const T*>(offset), static_cast<const T*>(mask), *shape,
                                      static_cast<T*>(grad_offset), static_cast<T*>(grad_mask));
  });
}
