// Greedy non-maximum suppression with the original's conventions: corners are inclusive (+1 in widths, heights and
// overlaps), equal scores keep their order.
//
//   boxes   [N, 4]  x1, y1, x2, y2
//   scores  [N]
//   result  [N]     bool: whether the box survives
//
// `suppress_at_threshold`: IoU >= threshold suppresses (the original's CPU kernel); otherwise IoU > threshold (its CUDA
// kernel).
#pragma once

#include <ATen/core/Tensor.h>

namespace mrb {

// Boxes suppress only boxes of their own group.
struct NmsGroups {
  at::Tensor of_box;  // [N] int64, 0 .. count; undefined: all boxes are of one group
  int64_t count;
  int64_t largest;  // no group has more boxes; known beforehand, so that nobody waits for their number
};

// A group that is larger than it may be is an error.
at::Tensor nms_mask_cpu(const at::Tensor& boxes, const at::Tensor& scores, const NmsGroups& groups, double threshold,
                        bool suppress_at_threshold);

// Float arithmetic whatever the boxes' type is; waits for nothing. Of a group that is larger than it may be some boxes
// are lost.
at::Tensor nms_mask_cuda(const at::Tensor& boxes, const at::Tensor& scores, const NmsGroups& groups, double threshold,
                         bool suppress_at_threshold);

// The places of the boxes by rising group, within a group by falling score, within a score in order.
at::Tensor nms_order(const at::Tensor& scores, const at::Tensor& groups);

}  // namespace mrb
