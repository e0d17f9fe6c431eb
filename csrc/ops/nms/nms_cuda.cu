// Two kernels: bits for the overlaps within the groups, computed in tiles of 64 x 64 next to the matrix's diagonal, and
// the greedy selection over them with one block of threads per group. Nothing goes through the host.
#include "cuda/launch.cuh"
#include "ops/nms/nms_cuda.h"

namespace mrb::cuda {
namespace {

constexpr int tile = 64;  // boxes per word of the mask
constexpr int64_t most_words = mrb_cuda_nms_most_boxes / tile + 1;

using Word = unsigned long long;

__device__ inline float side(float low, float high) { return __fadd_rn(__fadd_rn(high, -low), 1.f); }

__device__ inline float area(const float* box) { return __fmul_rn(side(box[0], box[2]), side(box[1], box[3])); }

// The order of operations is that of nms_cpu.cpp, and nothing is fused: results at the threshold depend on it.
__device__ inline bool suppresses(const float* a, const float* b, float threshold, bool at_threshold) {
  const float left = a[0] > b[0] ? a[0] : b[0], top = a[1] > b[1] ? a[1] : b[1];
  const float right = a[2] < b[2] ? a[2] : b[2], bottom = a[3] < b[3] ? a[3] : b[3];
  float w = side(left, right), h = side(top, bottom);
  w = w > 0.f ? w : 0.f;
  h = h > 0.f ? h : 0.f;
  const float inter = __fmul_rn(w, h);
  const float iou = __fdiv_rn(inter, __fadd_rn(__fadd_rn(area(a), area(b)), -inter));
  return iou > threshold || (at_threshold && iou == threshold);
}

// blockIdx.x: 64 boxes that suppress; blockIdx.y: the word of the mask, so many tiles after those the 64 boxes that may
// be suppressed.
__global__ void overlaps(const float* __restrict__ boxes, const int64_t* __restrict__ groups,
                         uint64_t* __restrict__ mask, int64_t count, float threshold, bool at_threshold) {
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * tile,
                first_column = first_row + static_cast<int64_t>(blockIdx.y) * tile;
  // The whole block ends here or nobody does. Groups rise, so tiles without a common group are known by their ends.
  if (first_column >= count) return;
  const int rows = static_cast<int>(count - first_row < tile ? count - first_row : tile);
  const int columns = static_cast<int>(count - first_column < tile ? count - first_column : tile);
  if (groups != nullptr && groups[first_row + rows - 1] < groups[first_column]) return;

  __shared__ float others[tile * 4];
  __shared__ int64_t other_groups[tile];
  const int i = static_cast<int>(threadIdx.x);
  if (i < columns) {
    for (int k = 0; k < 4; ++k) others[i * 4 + k] = boxes[(first_column + i) * 4 + k];
    other_groups[i] = groups != nullptr ? groups[first_column + i] : 0;
  }
  __syncthreads();
  if (i < rows) {
    const int64_t row = first_row + i;
    const float* box = boxes + row * 4;
    const int64_t group = groups != nullptr ? groups[row] : 0;
    Word word = 0;
    for (int j = first_column == first_row ? i + 1 : 0; j < columns; ++j) {
      if (other_groups[j] == group && suppresses(box, others + j * 4, threshold, at_threshold)) word |= Word{1} << j;
    }
    mask[row * gridDim.y + blockIdx.y] = word;
  }
}

// The first place in a rising list whose value is at least `value`.
__device__ inline int64_t lower_bound(const int64_t* list, int64_t count, int64_t value) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (list[middle] < value) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// One block per group walks over the words of its boxes. In each word one thread decides in order of the scores which
// boxes survive; then all threads strike out what the survivors suppress further on.
__global__ void select_boxes(const uint64_t* __restrict__ mask, const int64_t* __restrict__ groups,
                             const int64_t* __restrict__ order, bool* __restrict__ keep, int64_t count,
                             int64_t words) {
  __shared__ Word struck[most_words];
  __shared__ Word diagonal[tile];
  __shared__ Word survivors;
  __shared__ int64_t range[2];
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  if (thread < 2) {
    range[thread] = groups != nullptr ? lower_bound(groups, count, static_cast<int64_t>(blockIdx.x) + thread)
                                      : (thread == 0 ? 0 : count);
  }
  __syncthreads();
  const int64_t begin = range[0], end = range[1];
  const int64_t first = begin / tile;
  int64_t last = begin < end ? ceil_div(end, tile) : first;
  if (last > first + words) last = first + words;  // never beyond the mask, even if a group is larger than announced
  for (int64_t w = first + thread; w < last; w += threads) struck[w - first] = 0;
  __syncthreads();
  for (int64_t word = first; word < last; ++word) {
    const int64_t start = word * tile;
    if (thread < tile) {
      const int64_t box = start + thread;
      diagonal[thread] = box >= begin && box < end ? mask[box * words] : 0;
    }
    __syncthreads();
    if (thread == 0) {
      const int from = static_cast<int>(begin > start ? begin - start : 0);
      const int to = static_cast<int>(end - start < tile ? end - start : tile);
      Word dead = struck[word - first], alive = 0;
      for (int k = from; k < to; ++k) {
        if ((dead >> k & 1) == 0) {
          alive |= Word{1} << k;
          dead |= diagonal[k];
        }
      }
      survivors = alive;
    }
    __syncthreads();
    const Word alive = survivors;
    if (thread < tile && (alive >> thread & 1) != 0) keep[order[start + thread]] = true;
    // Eight boxes a thread, whose words are read side by side: one survivor after the other would wait for each read.
    constexpr int rows = 8, parts = tile / rows;
    for (int64_t t = thread; t < (last - word - 1) * parts; t += threads) {
      const int64_t w = word + 1 + t / parts;
      const int row = static_cast<int>(t % parts) * rows;
      Word suppressed = 0;
      for (int k = row; k < row + rows; ++k) {
        if ((alive >> k & 1) != 0) suppressed |= mask[(start + k) * words + w - word];
      }
      if (suppressed != 0) atomicOr(&struck[w - first], suppressed);
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_nms_mask(const float* boxes, const int64_t* groups, uint64_t* mask, int64_t count, int64_t largest,
                              float threshold, bool suppress_at_threshold, cudaStream_t stream) {
  using namespace mrb::cuda;
  if (largest > mrb_cuda_nms_most_boxes) return cudaErrorInvalidValue;
  if (count <= 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(ceil_div(count, tile)), static_cast<unsigned>(mrb_cuda_nms_words(largest)));
  return launch(stream, grid, dim3(tile), overlaps, boxes, groups, mask, count, threshold, suppress_at_threshold);
}

cudaError_t mrb_cuda_nms_select(const uint64_t* mask, const int64_t* groups, const int64_t* order, bool* keep,
                                int64_t count, int64_t largest, int64_t group_count, cudaStream_t stream) {
  using namespace mrb::cuda;
  if (largest > mrb_cuda_nms_most_boxes) return cudaErrorInvalidValue;
  if (count <= 0 || group_count <= 0) return cudaSuccess;
  return launch(stream, dim3(static_cast<unsigned>(group_count)), dim3(static_cast<unsigned>(block_size)), select_boxes,
                mask, groups, order, keep, count, mrb_cuda_nms_words(largest));
}
