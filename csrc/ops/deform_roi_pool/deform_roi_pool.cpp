#include "ops/deform_roi_pool/deform_roi_pool.h"

#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "ops/common/dispatch.h"

namespace mrb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct DeformRoiPool : torch::autograd::Function<DeformRoiPool> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& rois,
                            const std::optional<at::Tensor>& given_trans, const DeformRoiPoolGeometry& geometry) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto trans = given_trans.value_or(at::Tensor());
    context->save_for_backward({input, rois, trans});
    context->saved_data["spatial_scale"] = geometry.spatial_scale;
    context->saved_data["trans_std"] = geometry.trans_std;
    context->saved_data["sizes"] =
        std::vector<int64_t>{geometry.pooled_size, geometry.output_dim, geometry.group_size, geometry.part_size,
                             geometry.samples_per_part};
    return MRB_DISPATCH(deform_roi_pool_forward, input, input, rois, trans, geometry);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto s = context->saved_data["sizes"].toIntVector();
    const DeformRoiPoolGeometry geometry{
        context->saved_data["spatial_scale"].toDouble(), s[0], s[1], s[2], s[3], s[4],
        context->saved_data["trans_std"].toDouble()};
    auto result =
        MRB_DISPATCH(deform_roi_pool_backward, grads[0], grads[0], saved[0], saved[1], saved[2], geometry);
    return {result[0], at::Tensor(), result[1], at::Tensor()};
  }
};

void check(const at::Tensor& input, const at::Tensor& rois, const at::Tensor& trans, const DeformRoiPoolGeometry& g) {
  check_rois("deform_roi_pool", input, rois);
  TORCH_CHECK(g.pooled_size > 0 && g.output_dim > 0 && g.group_size > 0 && g.part_size > 0 && g.samples_per_part > 0,
              "deform_roi_pool: sizes must be positive");
  TORCH_CHECK(input.size(1) == g.output_dim * g.group_size * g.group_size, "deform_roi_pool: ", input.size(1),
              " channels, expected ", g.output_dim, " times the square of the group size ", g.group_size);
  if (!trans.defined()) return;
  TORCH_CHECK(trans.dim() == 4 && trans.size(0) == rois.size(0) && trans.size(1) > 0 && trans.size(1) % 2 == 0 &&
                  trans.size(2) == g.part_size && trans.size(3) == g.part_size,
              "deform_roi_pool: offsets must be [R, 2 * classes, part, part], not ", trans.sizes());
  TORCH_CHECK(g.output_dim % (trans.size(1) / 2) == 0, "deform_roi_pool: ", g.output_dim,
              " channels cannot be divided by ", trans.size(1) / 2, " classes");
}

}  // namespace
}  // namespace mrb

int mrb_deform_roi_pool(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* rois,
                        const at::Tensor* trans, const mrb_deform_roi_pool_geometry* geometry) {
  return mrb::guarded(error, [&] {
    const auto given_trans = trans ? std::optional<at::Tensor>(*trans) : std::nullopt;
    mrb::check(*input, *rois, trans ? *trans : at::Tensor(), *geometry);
    mrb::check_device("deform_roi_pool", {input, rois, trans ? trans : input});
    *output = new at::Tensor(
        mrb::DeformRoiPool::apply(*input, mrb::rois_for(*input, *rois), given_trans, *geometry));
  });
}
