#include "ops/nms/nms.h"

#include "guard.h"

int mrb_nms(mrb_error* error, at::Tensor** keep, const at::Tensor* boxes, const at::Tensor* scores, double threshold,
            bool suppress_at_threshold) {
  return mrb::guarded(error, [&] {
    TORCH_CHECK(boxes->dim() == 2 && boxes->size(1) == 4, "nms: boxes must be [N, 4], not ", boxes->sizes());
    TORCH_CHECK(scores->dim() == 1 && scores->size(0) == boxes->size(0), "nms: ", boxes->size(0),
                " boxes, but scores of shape ", scores->sizes());
    mrb::check_cpu("nms", {boxes, scores});
    *keep = new at::Tensor(mrb::nms_cpu(boxes->detach(), scores->detach(), threshold, suppress_at_threshold));
  });
}
