// Launches of the CUDA kernels of NMS. Boxes come sorted: by group, then by falling score.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// Boxes that a group has at most.
constexpr int64_t mrb_cuda_nms_most_boxes = 1 << 17;

// The words of the mask for each box where no group has more than `largest` boxes: those of the 64 boxes that it is one
// of and of the next ones that its group can reach.
inline int64_t mrb_cuda_nms_words(int64_t largest) { return (largest + 62) / 64 + 1; }

extern "C" {

// For each box one bit per box after it in its group, set if their overlap suppresses the later one.
//
//   boxes   [N, 4]
//   groups  [N]            rising; null: all boxes are in group 0
//   mask    [N, words]     word k of box i is that of the boxes from (i / 64 + k) * 64 on; words without a box of its
//                          group are not written
cudaError_t mrb_cuda_nms_mask(const float* boxes, const int64_t* groups, uint64_t* mask, int64_t count, int64_t largest,
                              float threshold, bool suppress_at_threshold, cudaStream_t stream);

// The greedy selection: sets keep[order[i]] for every sorted box i that survives; `keep` is all false before.
cudaError_t mrb_cuda_nms_select(const uint64_t* mask, const int64_t* groups, const int64_t* order, bool* keep,
                                int64_t count, int64_t largest, int64_t group_count, cudaStream_t stream);

}  // extern "C"
