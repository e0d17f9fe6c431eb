#include "ops/box_matching/box_matching_cuda.h"

#include <ATen/ops/empty.h>

#include "cuda/tensor.h"
#include "ops/box_matching/box_matching.h"

namespace mrb {

std::tuple<at::Tensor, at::Tensor, at::Tensor> match_by_iou_cuda(const at::Tensor& gt, const at::Tensor& predictions,
                                                                 const BatchCounts& counts) {
  const cuda::Guard guard(predictions.device());
  const auto rows = counts.rows();
  const auto options = predictions.options();
  auto best_iou = at::empty({rows}, options);
  auto best_gt = at::empty({rows}, options.dtype(at::kLong));
  auto attains = at::empty({rows}, options.dtype(at::kBool));
  auto gt_maximum = at::empty({gt.size(0)}, options.dtype(at::kInt));
  cuda::check("match_by_iou",
              mrb_cuda_match_by_iou(gt.const_data_ptr<float>(), counts.gt.data(), predictions.const_data_ptr<float>(),
                                    counts.predictions.data(), counts.shared, static_cast<int64_t>(counts.gt.size()),
                                    best_iou.mutable_data_ptr<float>(), best_gt.mutable_data_ptr<int64_t>(),
                                    attains.mutable_data_ptr<bool>(), gt_maximum.mutable_data_ptr<int32_t>(),
                                    cuda::current_stream()));
  return {best_iou, best_gt, attains};
}

}  // namespace mrb
