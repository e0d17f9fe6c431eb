#include "ops/box_matching/box_matching.h"

#include "guard.h"
#include "ops/common/dispatch.h"

int mrb_match_by_iou(mrb_error* error, at::Tensor** best_iou, at::Tensor** best_gt, at::Tensor** attains_gt_maximum,
                     const at::Tensor* gt, const at::Tensor* predictions) {
  return mrb::guarded(error, [&] {
    for (const auto* boxes : {gt, predictions}) {
      TORCH_CHECK(boxes->dim() == 2 && boxes->size(1) == 4, "match_by_iou: boxes must be [N, 4], not ", boxes->sizes());
    }
    TORCH_CHECK(gt->size(0) > 0, "match_by_iou: no ground-truth box");
    mrb::check_device("match_by_iou", {gt, predictions});
    const auto plain = [](const at::Tensor& boxes) { return boxes.detach().to(at::kFloat).contiguous(); };
    auto [iou, index, attains] = MRB_DISPATCH(mrb::match_by_iou, *predictions, plain(*gt), plain(*predictions));
    *best_iou = new at::Tensor(std::move(iou));
    *best_gt = new at::Tensor(std::move(index));
    *attains_gt_maximum = new at::Tensor(std::move(attains));
  });
}
