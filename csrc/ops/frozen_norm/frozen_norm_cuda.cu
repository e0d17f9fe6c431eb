// Memory is the limit here: each value is read once and written once. A block takes a piece of a row, or of the whole map
// where it is channels-last, so that places need no 64-bit division for each value.
#include "ops/frozen_norm/frozen_norm_cuda.h"

#include "cuda/launch.cuh"

namespace mrb::cuda {
namespace {

constexpr int piece = 2048;  // values for a block

// Where the values of a block lie, and the channel of each.
struct Piece {
  int64_t start;
  int count;
  unsigned first_channel, channels;  // channels 1: all values have the first

  __device__ unsigned channel(int i) const {
    return channels == 1 ? first_channel : (first_channel + static_cast<unsigned>(i)) % channels;
  }
};

__device__ Piece piece_of(const mrb_map_rows& map, int64_t block) {
  if (map.channels_last) {
    const int64_t start = block * piece, left = map.rows * map.length - start;
    return {start, static_cast<int>(left < piece ? left : piece), static_cast<unsigned>(start % map.channels),
            static_cast<unsigned>(map.channels)};
  }
  const int64_t pieces = ceil_div(map.length, piece);
  const int64_t row = block / pieces, begin = block % pieces * piece, left = map.length - begin;
  return {row * map.length + begin, static_cast<int>(left < piece ? left : piece),
          static_cast<unsigned>(row % map.channels), 1};
}

int64_t piece_count(const mrb_map_rows& map) {
  return map.channels_last ? ceil_div(map.rows * map.length, piece) : map.rows * ceil_div(map.length, piece);
}

// The product is rounded before the sum, as libtorch's own operators do one after the other.
template <typename T>
__global__ void forward_kernel(int64_t blocks, mrb_map_rows map, T* x, const float* scale, const float* shift,
                               const T* residual, bool relu) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Piece part = piece_of(map, block);
    for (int i = threadIdx.x; i < part.count; i += block_size) {
      const unsigned channel = part.channel(i);
      const int64_t place = part.start + i;
      float value = __fadd_rn(__fmul_rn(to_float(x[place]), scale[channel]), shift[channel]);
      if (residual != nullptr) value = __fadd_rn(value, to_float(residual[place]));
      if (relu && value < 0) value = 0;  // not a number stays so
      store(x + place, value);
    }
  }
}

template <typename T>
__global__ void backward_kernel(int64_t blocks, mrb_map_rows map, const T* grad_y, const T* y,
                                const float* scale, T* grad_x, T* grad_residual) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Piece part = piece_of(map, block);
    for (int i = threadIdx.x; i < part.count; i += block_size) {
      const int64_t place = part.start + i;
      float grad = to_float(grad_y[place]);
      if (y != nullptr && to_float(y[place]) <= 0) grad = 0;
      if (grad_residual != nullptr) store(grad_residual + place, grad);
      if (grad_x != nullptr) store(grad_x + place, __fmul_rn(grad, scale[part.channel(i)]));
    }
  }
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch_pieces(cudaStream_t stream, const mrb_map_rows& map,
                          void (*kernel)(int64_t, mrb_map_rows, Parameters...), Arguments... arguments) {
  const int64_t blocks = map.rows * map.length > 0 ? piece_count(map) : 0, most = 1 << 30;
  if (blocks == 0) return cudaSuccess;
  return launch(stream, dim3(static_cast<unsigned>(blocks < most ? blocks : most)),
                dim3(static_cast<unsigned>(block_size)), kernel, blocks, map, arguments...);
}

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_frozen_norm_forward(void* x, const float* scale, const float* shift, const void* residual,
                                         bool relu, const mrb_map_rows* map, mrb_scalar_type type,
                                         cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return mrb::cuda::launch_pieces(stream, *map, mrb::cuda::forward_kernel<T>, static_cast<T*>(x), scale, shift,
                                    static_cast<const T*>(residual), relu);
  });
}

cudaError_t mrb_cuda_frozen_norm_backward(const void* grad_y, const void* y, const float* scale, void* grad_x,
                                          void* grad_residual, const mrb_map_rows* map, mrb_scalar_type type,
                                          cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return mrb::cuda::launch_pieces(stream, *map, mrb::cuda::backward_kernel<T>, static_cast<const T*>(grad_y),
                                    static_cast<const T*>(y), scale, static_cast<T*>(grad_x),
                                    static_cast<T*>(grad_residual));
  });
}
