#include "ops/deform_conv/deform_conv.h"

#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "ops/common/dispatch.h"

namespace mrb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The matrix products between the kernels keep the type of the tensors under autocast.
using WithoutAutocast = c10::impl::ExcludeDispatchKeyGuard;

struct DeformConvFunction : torch::autograd::Function<DeformConvFunction> {
  // The mask comes last: where it is absent it has no place among the inputs that may need a gradient.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& offset,
                            const at::Tensor& weight, const std::optional<at::Tensor>& given_mask,
                            const DeformConvGeometry& geometry) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const WithoutAutocast guard(c10::autocast_dispatch_keyset);
    const auto mask = given_mask.value_or(at::Tensor());
    context->save_for_backward({input, offset, weight, mask});
    context->saved_data["geometry"] = std::vector<int64_t>{
        geometry.stride_h,   geometry.stride_w,   geometry.pad_h,  geometry.pad_w,
        geometry.dilation_h, geometry.dilation_w, geometry.groups, geometry.deformable_groups};
    return MRB_DISPATCH(deform_conv_forward, input, input, offset, mask, weight, geometry);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const WithoutAutocast guard(c10::autocast_dispatch_keyset);
    const auto saved = context->get_saved_variables();
    const auto g = context->saved_data["geometry"].toIntVector();
    std::array<bool, 4> wanted{};
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = saved[i].defined() && context->needs_input_grad(i);
    const DeformConvGeometry geometry{g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7]};
    auto result = MRB_DISPATCH(deform_conv_backward, grads[0], grads[0], saved[0], saved[1], saved[3], saved[2],
                               geometry, wanted);
    return {result[0], result[1], result[2], result[3], at::Tensor()};
  }
};

void check(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask, const at::Tensor& weight,
           const DeformConvGeometry& g) {
  TORCH_CHECK(input.dim() == 4 && weight.dim() == 4, "deform_conv: input ", input.sizes(), " and weight ",
              weight.sizes(), " must have 4 dimensions");
  TORCH_CHECK(g.stride_h > 0 && g.stride_w > 0 && g.dilation_h > 0 && g.dilation_w > 0 && g.pad_h >= 0 && g.pad_w >= 0,
              "deform_conv: stride and dilation must be positive, padding not negative");
  TORCH_CHECK(g.groups > 0 && g.deformable_groups > 0, "deform_conv: groups must be positive");
  TORCH_CHECK(input.size(1) == weight.size(1) * g.groups && weight.size(0) % g.groups == 0, "deform_conv: input ",
              input.sizes(), " and weight ", weight.sizes(), " do not fit ", g.groups, " groups");
  TORCH_CHECK(input.size(1) % g.deformable_groups == 0, "deform_conv: ", input.size(1), " channels cannot be divided by ",
              g.deformable_groups, " deformable groups");
  const auto size = deform_conv_output_size(input, weight, g);
  TORCH_CHECK(size[0] > 0 && size[1] > 0, "deform_conv: the output of input ", input.sizes(), " would be ", size[0], "x",
              size[1]);
  const auto planes = g.deformable_groups * weight.size(2) * weight.size(3);
  const auto expected = [&](int64_t channels) {
    return std::vector<int64_t>{input.size(0), channels, size[0], size[1]};
  };
  TORCH_CHECK(offset.sizes() == at::IntArrayRef(expected(2 * planes)), "deform_conv: offset must be ",
              at::IntArrayRef(expected(2 * planes)), ", not ", offset.sizes());
  TORCH_CHECK(!mask.defined() || mask.sizes() == at::IntArrayRef(expected(planes)), "deform_conv: mask must be ",
              at::IntArrayRef(expected(planes)), ", not ", mask.sizes());
  for (const auto& other : {offset, mask, weight}) {
    TORCH_CHECK(!other.defined() || other.scalar_type() == input.scalar_type(), "deform_conv: tensors of type ",
                input.scalar_type(), " and ", other.scalar_type());
  }
}

}  // namespace

std::array<int64_t, 2> deform_conv_output_size(const at::Tensor& input, const at::Tensor& weight,
                                               const DeformConvGeometry& geometry) {
  const auto size = [](int64_t length, int64_t pad, int64_t dilation, int64_t kernel, int64_t stride) {
    const int64_t places = length + 2 * pad - (dilation * (kernel - 1) + 1);
    return places < 0 ? 0 : places / stride + 1;
  };
  return {size(input.size(2), geometry.pad_h, geometry.dilation_h, weight.size(2), geometry.stride_h),
          size(input.size(3), geometry.pad_w, geometry.dilation_w, weight.size(3), geometry.stride_w)};
}

}  // namespace mrb

int mrb_deform_conv(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* offset,
                    const at::Tensor* mask, const at::Tensor* weight, const mrb_deform_conv_geometry* geometry) {
  return mrb::guarded(error, [&] {
    const auto given_mask = mask ? std::optional<at::Tensor>(*mask) : std::nullopt;
    mrb::check(*input, *offset, mask ? *mask : at::Tensor(), *weight, *geometry);
    mrb::check_device("deform_conv", {input, offset, weight, mask ? mask : input});
    *output = new at::Tensor(mrb::DeformConvFunction::apply(*input, *offset, *weight, given_mask, *geometry));
  });
}
