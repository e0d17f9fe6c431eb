#include "ops/roi_pool/roi_pool.h"

#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"

namespace mrb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RoiPool : torch::autograd::Function<RoiPool> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& rois,
                            int64_t pooled_height, int64_t pooled_width, double spatial_scale) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [output, argmax] = roi_pool_forward_cpu(input, rois, {pooled_height, pooled_width, spatial_scale});
    context->save_for_backward({rois, argmax});
    context->saved_data["input_size"] = input.sizes().vec();
    return output;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto input_size = context->saved_data["input_size"].toIntVector();
    auto grad_input = roi_pool_backward_cpu(grads[0], saved[1], saved[0], input_size);
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
    mrb::check_cpu("roi_pool", {input, rois});
    *output = new at::Tensor(mrb::RoiPool::apply(*input, rois->detach().to(input->scalar_type()), pooled_height,
                                                 pooled_width, spatial_scale));
  });
}
