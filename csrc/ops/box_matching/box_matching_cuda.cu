// As on the CPU, two passes of every prediction against every ground-truth box: the first finds both kinds of maximum, the
// second computes the overlaps again to see who attains the ground truth's. A block keeps some ground-truth boxes in shared
// memory, and a thread takes predictions one after the other.
#include "ops/box_matching/box_matching_cuda.h"

#include <climits>

#include "cuda/launch.cuh"

namespace mrb::cuda {
namespace {

constexpr int tile = 256;  // ground-truth boxes in shared memory

struct Box {
  float x1, y1, x2, y2, area;
};

// Products and sums must not be fused, as ties depend on their rounding: hence the functions for single operations.
__device__ float length(float first, float last) { return __fadd_rn(__fsub_rn(last, first), 1.f); }

__device__ Box box_at(const float* boxes, int64_t i) {
  const float* box = boxes + i * 4;
  return {box[0], box[1], box[2], box[3], __fmul_rn(length(box[0], box[2]), length(box[1], box[3]))};
}

// The order of operations of boxlist_iou. A nan coordinate makes its area nan, and so the overlap.
__device__ float iou(const Box& gt, const Box& box) {
  const float left = gt.x1 > box.x1 ? gt.x1 : box.x1, top = gt.y1 > box.y1 ? gt.y1 : box.y1;
  const float right = gt.x2 < box.x2 ? gt.x2 : box.x2, bottom = gt.y2 < box.y2 ? gt.y2 : box.y2;
  float w = length(left, right), h = length(top, bottom);
  w = w < 0 ? 0 : w;
  h = h < 0 ? 0 : h;
  const float inter = __fmul_rn(w, h);
  return __fdiv_rn(inter, __fsub_rn(__fadd_rn(gt.area, box.area), inter));
}

// Integers in the order of the floats, nan above everything: their maximum can be taken in any order.
__device__ int32_t key_of(float value) {
  const int32_t bits = __float_as_int(value);
  return value == value ? bits ^ ((bits >> 31) & INT_MAX) : INT_MAX;
}

__device__ float value_of(int32_t key) { return __int_as_float(key ^ ((key >> 31) & INT_MAX)); }  // of INT_MAX: a nan

__global__ void reset_kernel(int64_t count, int32_t* gt_maximum) {
  MRB_GRID_STRIDE(g, count) { gt_maximum[g] = INT_MIN; }
}

__global__ void maxima_kernel(const float* gt, int64_t gt_count, const float* predictions, int64_t count,
                              float* best_iou, int64_t* best_gt, int32_t* gt_maximum) {
  __shared__ Box boxes[tile];
  __shared__ int32_t maximum[tile];
  for (int64_t first = 0; first < gt_count; first += tile) {
    const int here = static_cast<int>(gt_count - first < tile ? gt_count - first : tile);
    for (int g = threadIdx.x; g < here; g += blockDim.x) {
      boxes[g] = box_at(gt, first + g);
      maximum[g] = INT_MIN;
    }
    __syncthreads();
    MRB_GRID_STRIDE(i, count) {
      const Box box = box_at(predictions, i);
      // As torch's max: the first of equals, and nan above everything.
      float best = first == 0 ? 0.f : best_iou[i];
      int64_t index = first == 0 ? -1 : best_gt[i];
      for (int g = 0; g < here; ++g) {
        const float value = iou(boxes[g], box);
        if (index < 0 || (!(value <= best) && best == best)) {
          best = value;
          index = first + g;
        }
        // Few of a block's predictions raise a maximum, so few threads get as far as the atomic operation.
        const int32_t key = key_of(value);
        if (key > *const_cast<volatile int32_t*>(&maximum[g])) atomicMax(&maximum[g], key);
      }
      best_iou[i] = best;
      best_gt[i] = index;
    }
    __syncthreads();
    for (int g = threadIdx.x; g < here; g += blockDim.x) atomicMax(&gt_maximum[first + g], maximum[g]);
    __syncthreads();
  }
}

__global__ void attains_kernel(const float* gt, int64_t gt_count, const float* predictions, int64_t count,
                               const int32_t* gt_maximum, bool* attains) {
  __shared__ Box boxes[tile];
  __shared__ float maximum[tile];
  for (int64_t first = 0; first < gt_count; first += tile) {
    const int here = static_cast<int>(gt_count - first < tile ? gt_count - first : tile);
    for (int g = threadIdx.x; g < here; g += blockDim.x) {
      boxes[g] = box_at(gt, first + g);
      maximum[g] = value_of(gt_maximum[first + g]);
    }
    __syncthreads();
    MRB_GRID_STRIDE(i, count) {
      const Box box = box_at(predictions, i);
      bool found = first > 0 && attains[i];
      for (int g = 0; g < here && !found; ++g) found = iou(boxes[g], box) == maximum[g];
      attains[i] = found;
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_match_by_iou(const float* gt, int64_t gt_count, const float* predictions, int64_t count,
                                  float* best_iou, int64_t* best_gt, bool* attains_gt_maximum, int32_t* gt_maximum,
                                  cudaStream_t stream) {
  using namespace mrb::cuda;
  if (count <= 0) return cudaSuccess;
  // Every block adds its maxima to those of all, so there are only as many as keep a GPU busy.
  constexpr int64_t most_blocks = 1024;
  const auto blocks = ceil_div(count, block_size);
  const dim3 grid(static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks));
  const dim3 block(static_cast<unsigned>(block_size));
  auto status = launch_elements(stream, gt_count, reset_kernel, gt_count, gt_maximum);
  if (status != cudaSuccess) return status;
  status = launch(stream, grid, block, maxima_kernel, gt, gt_count, predictions, count, best_iou, best_gt, gt_maximum);
  if (status != cudaSuccess) return status;
  return launch(stream, grid, block, attains_kernel, gt, gt_count, predictions, count, gt_maximum, attains_gt_maximum);
}
