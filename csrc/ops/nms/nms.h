// Greedy non-maximum suppression with the original's conventions: corners are inclusive (+1 in widths, heights and
// overlaps), equal scores keep their order.
//
//   boxes   [N, 4]  x1, y1, x2, y2
//   scores  [N]
//   groups  [N]     int64, 0 .. group_count: boxes suppress only boxes of their own group; undefined: one group
//   result  [N]     bool: whether the box survives
//
// `suppress_at_threshold`: IoU >= threshold suppresses (the original's CPU kernel); otherwise IoU > threshold (its CUDA
// kernel).
#pragma once

#include <ATen/core/Tensor.h>

namespace mrb {

at::Tensor nms_mask_cpu(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups,
                        int64_t group_count, double threshold, bool suppress_at_threshold);

// Float arithmetic whatever the boxes' type is; waits for nothing.
at::Tensor nms_mask_cuda(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups,
                         int64_t group_count, double threshold, bool suppress_at_threshold);

// The places of the boxes by rising group, within a group by falling score, within a score in order.
at::Tensor nms_order(const at::Tensor& scores, const at::Tensor& groups);

}  // namespace mrb
