#include "ops/roi_align/roi_align.h"

#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "ops/common/dispatch.h"

namespace mrb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RoiAlign : torch::autograd::Function<RoiAlign> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& rois,
                            int64_t pooled_height, int64_t pooled_width, double spatial_scale, int64_t sampling_ratio) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({rois});
    context->saved_data["input_size"] = input.sizes().vec();
    context->saved_data["pooled_height"] = pooled_height;
    context->saved_data["pooled_width"] = pooled_width;
    context->saved_data["spatial_scale"] = spatial_scale;
    context->saved_data["sampling_ratio"] = sampling_ratio;
    const RoiAlignShape shape{pooled_height, pooled_width, spatial_scale, sampling_ratio};
    return MRB_DISPATCH(roi_align_forward, input, input, rois, shape);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto rois = context->get_saved_variables()[0];
    const RoiAlignShape shape{context->saved_data["pooled_height"].toInt(), context->saved_data["pooled_width"].toInt(),
                              context->saved_data["spatial_scale"].toDouble(),
                              context->saved_data["sampling_ratio"].toInt()};
    const auto input_size = context->saved_data["input_size"].toIntVector();
    auto grad_input = MRB_DISPATCH(roi_align_backward, grads[0], grads[0], rois, input_size, shape);
    return {grad_input, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace
}  // namespace mrb

int mrb_roi_align(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* rois,
                  int64_t pooled_height, int64_t pooled_width, double spatial_scale, int64_t sampling_ratio) {
  return mrb::guarded(error, [&] {
    mrb::check_rois("roi_align", *input, *rois);
    TORCH_CHECK(pooled_height > 0 && pooled_width > 0, "roi_align: output size ", pooled_height, "x", pooled_width);
    mrb::check_device("roi_align", {input, rois});
    *output = new at::Tensor(mrb::RoiAlign::apply(*input, mrb::rois_for(*input, *rois), pooled_height, pooled_width,
                                                  spatial_scale, sampling_ratio));
  });
}
