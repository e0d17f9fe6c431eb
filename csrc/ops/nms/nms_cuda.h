// Launches of the CUDA kernels of NMS. Boxes come sorted: by group, then by falling score.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// Boxes that one launch takes at most.
constexpr int64_t mrb_cuda_nms_most_boxes = 1 << 17;

extern "C" {

// For each box one bit per box after it in its group, set if their overlap suppresses the later one.
//
//   boxes   [N, 4]
//   groups  [N]                  rising; null: all boxes are in group 0
//   mask    [N, ceil(N / 64)]    words left of the diagonal and of other groups are not written
cudaError_t mrb_cuda_nms_mask(const float* boxes, const int64_t* groups, uint64_t* mask, int64_t count, float threshold,
                              bool suppress_at_threshold, cudaStream_t stream);

// The greedy selection: sets keep[order[i]] for every sorted box i that survives; `keep` is all false before.
cudaError_t mrb_cuda_nms_select(const uint64_t* mask, const int64_t* groups, const int64_t* order, bool* keep,
                                int64_t count, int64_t group_count, cudaStream_t stream);

}  // extern "C"
