#include "ops/roi_align/roi_align.h"

#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "ops/common/dispatch.h"

namespace mrb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RoiAlign : torch::autograd::Function<RoiAlign> {
  static at::Tensor forward(AutogradContext* context, at::TensorList inputs, const at::Tensor& rois,
                            const std::optional<at::Tensor>& given_levels, int64_t pooled_height, int64_t pooled_width,
                            const std::vector<double>& spatial_scales, int64_t sampling_ratio) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto levels = given_levels.value_or(at::Tensor());
    context->save_for_backward({rois, levels});
    std::vector<int64_t> sizes;
    for (const auto& input : inputs) sizes.insert(sizes.end(), input.sizes().begin(), input.sizes().end());
    context->saved_data["input_sizes"] = sizes;
    context->saved_data["pooled_height"] = pooled_height;
    context->saved_data["pooled_width"] = pooled_width;
    context->saved_data["spatial_scales"] = spatial_scales;
    context->saved_data["sampling_ratio"] = sampling_ratio;
    context->saved_data["format"] = static_cast<int64_t>(inputs[0].suggest_memory_format());
    const RoiAlignShape shape{pooled_height, pooled_width, spatial_scales, sampling_ratio};
    return MRB_DISPATCH(roi_align_forward, inputs[0], inputs, rois, levels, shape);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const RoiAlignShape shape{context->saved_data["pooled_height"].toInt(), context->saved_data["pooled_width"].toInt(),
                              context->saved_data["spatial_scales"].toDoubleVector(),
                              context->saved_data["sampling_ratio"].toInt()};
    const auto sizes = context->saved_data["input_sizes"].toIntVector();
    std::vector<std::vector<int64_t>> input_sizes;
    for (size_t i = 0; i < sizes.size(); i += 4) input_sizes.emplace_back(&sizes[i], &sizes[i] + 4);
    // A head that flattens what is pooled sends back another format than the maps'. Their gradients are to lie as they
    // do.
    const auto grad = grads[0].contiguous(static_cast<at::MemoryFormat>(context->saved_data["format"].toInt()));
    variable_list result = MRB_DISPATCH(roi_align_backward, grad, grad, saved[0], saved[1], input_sizes, shape);
    result.resize(result.size() + 6);  // the arguments after the maps have no gradient
    return result;
  }
};

void check_maps(at::TensorList inputs, const at::Tensor& rois, const std::optional<at::Tensor>& levels) {
  TORCH_CHECK(!inputs.empty(), "roi_align: there is no map to pool from");
  for (const auto& input : inputs) {
    check_rois("roi_align", input, rois);
    TORCH_CHECK(input.size(0) == inputs[0].size(0) && input.size(1) == inputs[0].size(1) &&
                    input.scalar_type() == inputs[0].scalar_type(),
                "roi_align: maps of one batch, number of channels and type are pooled, not ", inputs[0].sizes(), " ",
                inputs[0].scalar_type(), " and ", input.sizes(), " ", input.scalar_type());
    check_device("roi_align", {&inputs[0], &input, &rois});
  }
  if (levels) {
    TORCH_CHECK(levels->dim() == 1 && levels->size(0) == rois.size(0) && levels->scalar_type() == at::kLong,
                "roi_align: ", rois.size(0), " RoIs, but levels of shape ", levels->sizes(), " and type ",
                levels->scalar_type());
    check_device("roi_align", {&rois, &*levels});
  } else {
    TORCH_CHECK(inputs.size() == 1, "roi_align: ", inputs.size(), " maps, but no level for each RoI");
  }
}

}  // namespace
}  // namespace mrb

int mrb_roi_align(mrb_error* error, at::Tensor** output, const at::Tensor* const* inputs, const double* spatial_scales,
                  int64_t map_count, const at::Tensor* rois, const at::Tensor* levels, int64_t pooled_height,
                  int64_t pooled_width, int64_t sampling_ratio) {
  return mrb::guarded(error, [&] {
    std::vector<at::Tensor> maps;
    for (int64_t i = 0; i < map_count; ++i) maps.push_back(*inputs[i]);
    const auto given_levels = levels ? std::optional<at::Tensor>(levels->contiguous()) : std::nullopt;
    mrb::check_maps(maps, *rois, given_levels);
    TORCH_CHECK(pooled_height > 0 && pooled_width > 0, "roi_align: output size ", pooled_height, "x", pooled_width);
    const std::vector<double> scales(spatial_scales, spatial_scales + map_count);
    *output = new at::Tensor(mrb::RoiAlign::apply(at::TensorList(maps), mrb::rois_for(maps[0], *rois), given_levels,
                                                  pooled_height, pooled_width, scales, sampling_ratio));
  });
}
