// Which ground-truth box overlaps each prediction best, for each image of a batch, without the matrix of all overlaps:
// the memory is O(G + N).
//
//   gt           [G, 4]  x1, y1, x2, y2: those of the first image first
//   predictions  [N, 4]  likewise; or, where they are `shared`, the same for every image
//
//   best_iou            [R]  float32: the greatest IoU with a ground-truth box of the image
//   best_gt             [R]  int64:   its index within the image, the first of equals
//   attains_gt_maximum  [R]  bool:    whether the prediction has the greatest IoU that some ground-truth box reaches
//
// R is the sum of the images' predictions. Values, ties and nan are those of the original's boxlist_iou followed by
// max(dim) in float32; on an image without ground truth they are -inf, 0 and false.
#pragma once

#include <ATen/core/Tensor.h>

#include <numeric>
#include <tuple>

namespace mrb {

// How many ground-truth boxes and predictions each image has.
struct BatchCounts {
  at::IntArrayRef gt, predictions;
  bool shared;

  int64_t rows() const { return std::accumulate(predictions.begin(), predictions.end(), int64_t{0}); }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> match_by_iou_cpu(const at::Tensor& gt, const at::Tensor& predictions,
                                                                const BatchCounts& counts);
// Only in builds with CUDA.
std::tuple<at::Tensor, at::Tensor, at::Tensor> match_by_iou_cuda(const at::Tensor& gt, const at::Tensor& predictions,
                                                                 const BatchCounts& counts);

}  // namespace mrb
