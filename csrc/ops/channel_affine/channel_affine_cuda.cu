// Memory is the limit here: each value is read once and written once. A block takes a piece of a row, or of the whole
// map where it is channels-last, so that places need no 64-bit division for each value. Where rows are whole vectors of
// 16 bytes, a thread has several of them under way at once; else it takes single values.
#include "ops/channel_affine/channel_affine_cuda.h"

#include "cuda/launch.cuh"
#include "cuda/vectors.cuh"

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

// The product is rounded before the sum, as libtorch's own operators do one after the other. A product with 1 changes
// nothing.
__device__ __forceinline__ float scaled(float value, float scale, float shift) {
  return __fadd_rn(__fmul_rn(value, scale), shift);
}

__device__ __forceinline__ float rectified(float value) { return value < 0 ? 0.f : value; }  // not a number stays so

template <typename T>
__global__ void forward_kernel(int64_t blocks, mrb_map_rows map, T* x, const float* scale, const float* shift,
                               const T* residual, bool relu) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Piece part = piece_of(map, block);
    for (int i = threadIdx.x; i < part.count; i += block_size) {
      const unsigned channel = part.channel(i);
      const int64_t place = part.start + i;
      float value = scaled(to_float(x[place]), scale != nullptr ? scale[channel] : 1.f, shift[channel]);
      if (residual != nullptr) value = __fadd_rn(value, to_float(residual[place]));
      store(x + place, relu ? rectified(value) : value);
    }
  }
}

template <typename T>
__global__ void backward_kernel(int64_t blocks, mrb_map_rows map, const T* grad_y, const T* y,
                                const float* scale, T* grad_x, T* masked) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Piece part = piece_of(map, block);
    for (int i = threadIdx.x; i < part.count; i += block_size) {
      const int64_t place = part.start + i;
      float grad = to_float(grad_y[place]);
      if (y != nullptr && to_float(y[place]) <= 0) grad = 0;
      if (masked != nullptr) store(masked + place, grad);
      if (grad_x != nullptr) store(grad_x + place, __fmul_rn(grad, scale[part.channel(i)]));
    }
  }
}

constexpr unsigned under_way = 3;  // vectors of a thread, `block_size` apart
constexpr unsigned vector_piece = under_way * block_size;

// mrb_map_rows in vectors.
struct VectorRows {
  int64_t vectors;    // of a row; of the whole map where it is channels-last
  unsigned pieces;    // blocks for them
  unsigned channels;  // channels-last: vectors of a pixel
};

// A thread's first vector, the end of those that it may take, and the place of its constants.
struct Share {
  int64_t first, end;
  unsigned channel, step;  // channels-last: counted in vectors, and how far the next one is, modulo `channels`
};

template <bool channels_last>
__device__ Share share_of(const VectorRows& rows) {
  const unsigned row = channels_last ? 0 : blockIdx.x / rows.pieces, piece = blockIdx.x - row * rows.pieces;
  const int64_t start = row * rows.vectors, first = start + static_cast<int64_t>(piece) * vector_piece + threadIdx.x;
  if (!channels_last) return {first, start + rows.vectors, row % rows.channels, 0};
  // `first` modulo `channels`; 32 bits are enough, since vector_rows() lets no more than 2^21 channels pass.
  const unsigned place = piece % rows.channels * (vector_piece % rows.channels) + threadIdx.x;
  return {first, rows.vectors, place % rows.channels, static_cast<unsigned>(block_size) % rows.channels};
}

// The constants of a vector, which stay in registers for the next one where its channels are the same.
template <typename T, bool channels_last>
struct Constants {
  static constexpr int width = channels_last ? Vector<T>::width : 1;
  float values[width];

  // 1 for all channels if `from` is null.
  __device__ __forceinline__ void load(const float* __restrict__ from, unsigned channel) {
    if (from == nullptr) {
      for (float& value : values) value = 1.f;
      return;
    }
    if (!channels_last) {
      values[0] = from[channel];
      return;
    }
    const auto* fours = reinterpret_cast<const Vector<float>*>(from) + channel * (width / 4);
    for (int i = 0; i < width / 4; ++i) {
      const Vector<float> four = fours[i];
      for (int j = 0; j < 4; ++j) values[4 * i + j] = four.values[j];
    }
  }
  __device__ __forceinline__ float operator[](int i) const { return values[channels_last ? i : 0]; }
};

template <typename T>
__device__ __forceinline__ void load_share(Vector<T> (&to)[under_way], const Vector<T>* from, const Share& share) {
  for (unsigned k = 0; k < under_way; ++k) {
    const int64_t place = share.first + k * block_size;
    if (place < share.end) to[k] = from[place];
  }
}

// Calls `function(k, place)` for the vectors of a thread, and `load(channel)` before those with other channels.
template <typename Load, typename Function>
__device__ __forceinline__ void for_share(const Share& share, unsigned channels, const Load& load,
                                          const Function& function) {
  unsigned channel = share.channel;
  for (unsigned k = 0; k < under_way; ++k) {
    const int64_t place = share.first + k * block_size;
    if (place >= share.end) return;
    if (k == 0 || share.step != 0) load(channel);
    function(k, place);
    channel += share.step;
    if (channel >= channels) channel -= channels;
  }
}

template <typename T, bool channels_last>
__global__ void __launch_bounds__(block_size)
    forward_vectors(VectorRows rows, Vector<T>* x, const float* __restrict__ scale, const float* __restrict__ shift,
                    const Vector<T>* residual, bool relu) {
  const Share share = share_of<channels_last>(rows);
  Vector<T> values[under_way]{}, added[under_way]{};
  load_share(values, x, share);
  if (residual != nullptr) load_share(added, residual, share);
  Constants<T, channels_last> factors, summands;
  const auto load = [&](unsigned channel) {
    factors.load(scale, channel);
    summands.load(shift, channel);
  };
  for_share(share, rows.channels, load, [&](unsigned k, int64_t place) {
    for (int i = 0; i < Vector<T>::width; ++i) {
      float value = scaled(to_float(values[k].values[i]), factors[i], summands[i]);
      if (residual != nullptr) value = __fadd_rn(value, to_float(added[k].values[i]));
      store(&values[k].values[i], relu ? rectified(value) : value);
    }
    x[place] = values[k];
  });
}

template <typename T, bool channels_last>
__global__ void __launch_bounds__(block_size)
    backward_vectors(VectorRows rows, const Vector<T>* grad_y, const Vector<T>* y, const float* __restrict__ scale,
                     Vector<T>* grad_x, Vector<T>* masked) {
  const Share share = share_of<channels_last>(rows);
  Vector<T> grads[under_way]{}, results[under_way]{};
  load_share(grads, grad_y, share);
  if (y != nullptr) load_share(results, y, share);
  Constants<T, channels_last> factors;
  const auto load = [&](unsigned channel) { factors.load(scale, channel); };
  for_share(share, rows.channels, load, [&](unsigned k, int64_t place) {
    Vector<T> to_x;
    for (int i = 0; i < Vector<T>::width; ++i) {
      float grad = to_float(grads[k].values[i]);
      if (y != nullptr && to_float(results[k].values[i]) <= 0) grad = 0;
      store(&grads[k].values[i], grad);
      store(&to_x.values[i], __fmul_rn(grad, factors[i]));
    }
    if (masked != nullptr) masked[place] = grads[k];
    if (grad_x != nullptr) grad_x[place] = to_x;
  });
}

constexpr int64_t most_blocks = 1 << 30;

// Whether the map can be taken in vectors of `width` values, each within a row, and how; `blocks` for the launch.
bool vector_rows(const mrb_map_rows& map, int width, VectorRows* rows, unsigned* blocks) {
  if (map.rows * map.length == 0 || map.length % width != 0 || map.channels > 1 << 21) return false;
  const int64_t vectors = (map.channels_last ? map.rows : 1) * (map.length / width);
  const int64_t pieces = ceil_div(vectors, vector_piece), all = map.channels_last ? pieces : map.rows * pieces;
  if (all > most_blocks) return false;
  *rows = {vectors, static_cast<unsigned>(pieces),
           static_cast<unsigned>(map.channels_last ? map.length / width : map.channels)};
  *blocks = static_cast<unsigned>(all);
  return true;
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch_pieces(cudaStream_t stream, const mrb_map_rows& map,
                          void (*kernel)(int64_t, mrb_map_rows, Parameters...), Arguments... arguments) {
  const int64_t blocks = map.rows * map.length > 0 ? piece_count(map) : 0;
  if (blocks == 0) return cudaSuccess;
  return launch(stream, dim3(static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks)),
                dim3(static_cast<unsigned>(block_size)), kernel, blocks, map, arguments...);
}

template <typename T>
cudaError_t forward(T* x, const float* scale, const float* shift, const T* residual, bool relu, const mrb_map_rows& map,
                    cudaStream_t stream) {
  VectorRows rows;
  unsigned blocks;
  if (are_aligned({x, scale, shift, residual}) && vector_rows(map, Vector<T>::width, &rows, &blocks)) {
    const auto kernel = map.channels_last ? forward_vectors<T, true> : forward_vectors<T, false>;
    return launch(stream, dim3(blocks), dim3(static_cast<unsigned>(block_size)), kernel, rows,
                  reinterpret_cast<Vector<T>*>(x), scale, shift, reinterpret_cast<const Vector<T>*>(residual), relu);
  }
  return launch_pieces(stream, map, forward_kernel<T>, x, scale, shift, residual, relu);
}

template <typename T>
cudaError_t backward(const T* grad_y, const T* y, const float* scale, T* grad_x, T* masked, const mrb_map_rows& map,
                     cudaStream_t stream) {
  VectorRows rows;
  unsigned blocks;
  if (are_aligned({grad_y, y, scale, grad_x, masked}) && vector_rows(map, Vector<T>::width, &rows, &blocks)) {
    const auto kernel = map.channels_last ? backward_vectors<T, true> : backward_vectors<T, false>;
    return launch(stream, dim3(blocks), dim3(static_cast<unsigned>(block_size)), kernel, rows,
                  reinterpret_cast<const Vector<T>*>(grad_y), reinterpret_cast<const Vector<T>*>(y), scale,
                  reinterpret_cast<Vector<T>*>(grad_x), reinterpret_cast<Vector<T>*>(masked));
  }
  return launch_pieces(stream, map, backward_kernel<T>, grad_y, y, scale, grad_x, masked);
}

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_channel_affine_forward(void* x, const float* scale, const float* shift, const void* residual,
                                            bool relu, const mrb_map_rows* map, mrb_scalar_type type,
                                            cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return mrb::cuda::forward(static_cast<T*>(x), scale, shift, static_cast<const T*>(residual), relu, *map, stream);
  });
}

cudaError_t mrb_cuda_channel_affine_backward(const void* grad_y, const void* y, const float* scale, void* grad_x,
                                             void* masked, const mrb_map_rows* map, mrb_scalar_type type,
                                             cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    return mrb::cuda::backward(static_cast<const T*>(grad_y), static_cast<const T*>(y), scale, static_cast<T*>(grad_x),
                               static_cast<T*>(masked), *map, stream);
  });
}
