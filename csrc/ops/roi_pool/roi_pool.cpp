#include "ops/roi_pool/roi_pool.h"

#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "ops/common/dispatch.h"

namespace mrb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RoiPool : torch::autograd::Function<RoiPool> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& rois,
                            int64_t pooled_height, int64_t pooled_width, double spatial_scale) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const RoiPoolShape shape{pooled_height, pooled_width, spatial_scale};
    auto [output, argmax] = MRB_DISPATCH(roi_pool_forward, input, input, rois, shape);
    context->save_for_backward({rois, argmax});
    context->saved_data["input_size"] = input.sizes().vec();
    context->saved_data["spatial_scale"] = spatial_scale;
    return output;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto input_size = context->saved_data["input_size"].toIntVector();
    const RoiPoolShape shape{grads[0].size(2), grads[0].size(3), context->saved_data["spatial_scale"].toDouble()};
    auto grad_input = MRB_DISPATCH(roi_pool_backward, grads[0], grads[0], saved[1], saved[0], input_size, shape);
    return {grad_input, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace
}  // namespace mrb

int mrb_roi_pool(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* rois,
                 int64_t pooled_height, int64_t pooled_width, double spatial_scale) {
  return mrb::guarded(error, [&] {
    mrb::check_rois("roi_pool", *input, *rois);
    TORCH_CHECK(pooled_height > 0 && pooled_width > 0, "roi_pool: output size ", pooled_height, "x", pooled_width);
    mrb::check_device("roi_pool", {input, rois});
    *output = new at::Tensor(
        mrb::RoiPool::apply(*input, mrb::rois_for(*input, *rois), pooled_height, pooled_width, spatial_scale));
  });
}
