// Greedy non-maximum suppression with the original's conventions: corners are inclusive (+1 in widths, heights and
// overlaps), equal scores keep their order, the kept indices come back in rising order.
//
//   boxes   [N, 4]  x1, y1, x2, y2
//   scores  [N]
//   result  [K]     int64
//
// `suppress_at_threshold`: IoU >= threshold suppresses (the original's CPU kernel); otherwise IoU > threshold (its CUDA
// kernel).
#pragma once

#include <ATen/core/Tensor.h>

namespace mrb {

at::Tensor nms_cpu(const at::Tensor& boxes, const at::Tensor& scores, double threshold, bool suppress_at_threshold);

}  // namespace mrb
