// As on the CPU, two passes of every prediction against every ground-truth box of its image, but for all images at
// once: the first finds both kinds of maximum, the second computes the overlaps again to see who attains the ground
// truth's. A block keeps some ground-truth boxes in shared memory, and a thread takes predictions one after the other.
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

// Where the boxes of an image lie among those of all. Results lie as predictions that are not shared do.
struct Image {
  int64_t first_gt, gt_count, first_row, count;
};

// The images of one launch, which take the way of a kernel's arguments: nothing has to be copied to the device before.
// Block (x, y) works on image y.
constexpr int64_t images_per_launch = 64;
struct Images {
  Image of[images_per_launch];
};

__global__ void reset_kernel(int64_t count, int32_t* gt_maximum) {
  MRB_GRID_STRIDE(g, count) { gt_maximum[g] = INT_MIN; }
}

__global__ void maxima_kernel(Images images, const float* gt, const float* predictions, bool shared, float* best_iou,
                              int64_t* best_gt, int32_t* gt_maximum) {
  const Image image = images.of[blockIdx.y];
  gt += image.first_gt * 4;
  gt_maximum += image.first_gt;
  if (!shared) predictions += image.first_row * 4;
  best_iou += image.first_row;
  best_gt += image.first_row;
  if (image.gt_count == 0) {
    MRB_GRID_STRIDE(i, image.count) {
      best_iou[i] = __int_as_float(static_cast<int32_t>(0xff800000));  // minus infinity
      best_gt[i] = 0;
    }
    return;
  }
  __shared__ Box boxes[tile];
  __shared__ int32_t maximum[tile];
  for (int64_t first = 0; first < image.gt_count; first += tile) {
    const int here = static_cast<int>(image.gt_count - first < tile ? image.gt_count - first : tile);
    for (int g = threadIdx.x; g < here; g += blockDim.x) {
      boxes[g] = box_at(gt, first + g);
      maximum[g] = INT_MIN;
    }
    __syncthreads();
    MRB_GRID_STRIDE(i, image.count) {
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

__global__ void attains_kernel(Images images, const float* gt, const float* predictions, bool shared,
                               const int32_t* gt_maximum, bool* attains) {
  const Image image = images.of[blockIdx.y];
  gt += image.first_gt * 4;
  gt_maximum += image.first_gt;
  if (!shared) predictions += image.first_row * 4;
  attains += image.first_row;
  if (image.gt_count == 0) {
    MRB_GRID_STRIDE(i, image.count) { attains[i] = false; }
    return;
  }
  __shared__ Box boxes[tile];
  __shared__ float maximum[tile];
  for (int64_t first = 0; first < image.gt_count; first += tile) {
    const int here = static_cast<int>(image.gt_count - first < tile ? image.gt_count - first : tile);
    for (int g = threadIdx.x; g < here; g += blockDim.x) {
      boxes[g] = box_at(gt, first + g);
      maximum[g] = value_of(gt_maximum[first + g]);
    }
    __syncthreads();
    MRB_GRID_STRIDE(i, image.count) {
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

cudaError_t mrb_cuda_match_by_iou(const float* gt, const int64_t* gt_counts, const float* predictions,
                                  const int64_t* counts, bool shared, int64_t images, float* best_iou, int64_t* best_gt,
                                  bool* attains_gt_maximum, int32_t* gt_maximum, cudaStream_t stream) {
  using namespace mrb::cuda;
  // Every block adds its maxima to those of all, so there are only as many as keep a GPU busy.
  constexpr int64_t most_blocks = 1024;
  int64_t gt_total = 0;
  for (int64_t image = 0; image < images; ++image) gt_total += gt_counts[image];
  auto status = launch_elements(stream, gt_total, reset_kernel, gt_total, gt_maximum);
  if (status != cudaSuccess) return status;
  int64_t first_gt = 0, first_row = 0;
  for (int64_t first = 0; first < images; first += images_per_launch) {
    const auto here = images - first < images_per_launch ? images - first : images_per_launch;
    Images part{};
    int64_t largest = 0;
    for (int64_t i = 0; i < here; ++i) {
      const auto gt_count = gt_counts[first + i], count = counts[first + i];
      part.of[i] = {first_gt, gt_count, first_row, count};
      first_gt += gt_count;
      first_row += count;
      largest = count > largest ? count : largest;
    }
    if (largest == 0) continue;
    const auto blocks = ceil_div(largest, block_size), most = ceil_div(most_blocks, here);
    const dim3 grid(static_cast<unsigned>(blocks < most ? blocks : most), static_cast<unsigned>(here));
    const dim3 block(static_cast<unsigned>(block_size));
    status =
        launch(stream, grid, block, maxima_kernel, part, gt, predictions, shared, best_iou, best_gt, gt_maximum);
    if (status != cudaSuccess) return status;
    status =
        launch(stream, grid, block, attains_kernel, part, gt, predictions, shared, gt_maximum, attains_gt_maximum);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}
