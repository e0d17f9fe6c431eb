#include "ops/nms/nms.h"

#include <ATen/ops/nonzero.h>
#include <ATen/ops/sort.h>

#include "guard.h"
#include "ops/common/dispatch.h"

namespace mrb {
namespace {

void check_boxes(const at::Tensor& boxes, const at::Tensor& scores) {
  TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "nms: boxes must be [N, 4], not ", boxes.sizes());
  TORCH_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0), "nms: ", boxes.size(0),
              " boxes, but scores of shape ", scores.sizes());
}

at::Tensor mask(const at::Tensor& boxes, const at::Tensor& scores, const NmsGroups& groups, double threshold,
                bool suppress_at_threshold) {
  return MRB_DISPATCH(nms_mask, boxes, boxes.detach(), scores.detach(), groups, threshold, suppress_at_threshold);
}

}  // namespace

at::Tensor nms_order(const at::Tensor& scores, const at::Tensor& groups) {
  const auto by_score = std::get<1>(at::sort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true));
  if (!groups.defined()) return by_score.contiguous();
  const auto by_group =
      std::get<1>(at::sort(groups.index_select(0, by_score), /*stable=*/true, /*dim=*/0, /*descending=*/false));
  return by_score.index_select(0, by_group);
}

}  // namespace mrb

int mrb_nms(mrb_error* error, at::Tensor** keep, const at::Tensor* boxes, const at::Tensor* scores, double threshold,
            bool suppress_at_threshold) {
  return mrb::guarded(error, [&] {
    mrb::check_boxes(*boxes, *scores);
    mrb::check_device("nms", {boxes, scores});
    const mrb::NmsGroups one{at::Tensor(), 1, boxes->size(0)};
    const auto mask = mrb::mask(*boxes, *scores, one, threshold, suppress_at_threshold);
    *keep = new at::Tensor(at::nonzero(mask).squeeze(1));
  });
}

int mrb_nms_mask(mrb_error* error, at::Tensor** keep, const at::Tensor* boxes, const at::Tensor* scores,
                 const at::Tensor* groups, int64_t group_count, int64_t largest_group, double threshold,
                 bool suppress_at_threshold) {
  return mrb::guarded(error, [&] {
    mrb::check_boxes(*boxes, *scores);
    TORCH_CHECK(groups->dim() == 1 && groups->size(0) == boxes->size(0) && groups->scalar_type() == at::kLong,
                "nms: ", boxes->size(0), " boxes, but groups of shape ", groups->sizes(), " and type ",
                groups->scalar_type());
    mrb::check_device("nms", {boxes, scores, groups});
    const mrb::NmsGroups all{*groups, group_count, largest_group};
    *keep = new at::Tensor(mrb::mask(*boxes, *scores, all, threshold, suppress_at_threshold));
  });
}
