#include "ops/box_matching/box_matching.h"

#include <vector>

#include "guard.h"
#include "ops/common/dispatch.h"

namespace {

void check_counts(const char* which, const at::Tensor& boxes, at::IntArrayRef counts) {
  int64_t total = 0;
  for (const auto count : counts) {
    TORCH_CHECK(count >= 0, "match_by_iou: an image cannot have ", count, " ", which);
    total += count;
  }
  TORCH_CHECK(total == boxes.size(0), "match_by_iou: the images have ", total, " ", which, ", the tensor has ",
              boxes.size(0));
}

}  // namespace

int mrb_match_by_iou(mrb_error* error, at::Tensor** best_iou, at::Tensor** best_gt, at::Tensor** attains_gt_maximum,
                     const at::Tensor* gt, const int64_t* gt_counts, const at::Tensor* predictions,
                     const int64_t* prediction_counts, size_t images) {
  return mrb::guarded(error, [&] {
    for (const auto* boxes : {gt, predictions}) {
      TORCH_CHECK(boxes->dim() == 2 && boxes->size(1) == 4, "match_by_iou: boxes must be [N, 4], not ", boxes->sizes());
    }
    const bool shared = prediction_counts == nullptr;
    const std::vector<int64_t> same(shared ? images : 0, predictions->size(0));
    const mrb::BatchCounts counts{{gt_counts, images}, {shared ? same.data() : prediction_counts, images}, shared};
    check_counts("ground-truth boxes", *gt, counts.gt);
    if (!shared) check_counts("predictions", *predictions, counts.predictions);
    mrb::check_device("match_by_iou", {gt, predictions});
    const auto plain = [](const at::Tensor& boxes) { return boxes.detach().to(at::kFloat).contiguous(); };
    auto [iou, index, attains] =
        MRB_DISPATCH(mrb::match_by_iou, *predictions, plain(*gt), plain(*predictions), counts);
    *best_iou = new at::Tensor(std::move(iou));
    *best_gt = new at::Tensor(std::move(index));
    *attains_gt_maximum = new at::Tensor(std::move(attains));
  });
}
