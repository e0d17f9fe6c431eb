// Which ground-truth box overlaps each prediction best, without the matrix of all overlaps: the memory is O(G + N).
//
//   gt           [G, 4]  x1, y1, x2, y2; G > 0
//   predictions  [N, 4]
//
//   best_iou            [N]  float32: the greatest IoU with a ground-truth box
//   best_gt             [N]  int64:   its index, the first of equals
//   attains_gt_maximum  [N]  bool:    whether the prediction has the greatest IoU that some ground-truth box reaches
//
// Values, ties and nan are those of the original's boxlist_iou followed by max(dim) in float32.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace mrb {

std::tuple<at::Tensor, at::Tensor, at::Tensor> match_by_iou_cpu(const at::Tensor& gt, const at::Tensor& predictions);
// Only in builds with CUDA.
std::tuple<at::Tensor, at::Tensor, at::Tensor> match_by_iou_cuda(const at::Tensor& gt, const at::Tensor& predictions);

}  // namespace mrb
