#include "ops/channel_affine/channel_affine.h"

#include <ATen/OpMathType.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "guard.h"
#include "ops/common/dispatch.h"

namespace mrb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ChannelAffine : torch::autograd::Function<ChannelAffine> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& shift,
                            const std::optional<at::Tensor>& residual, const std::optional<at::Tensor>& given_scale,
                            bool relu) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto scale = given_scale.value_or(at::Tensor());
    const auto added = residual ? residual->to(x.scalar_type()).contiguous(x.suggest_memory_format()) : at::Tensor();
    MRB_DISPATCH(channel_affine_forward, x, x, scale, shift, added, relu);
    x.unsafeGetTensorImpl()->bump_version();
    context->mark_dirty({x});
    context->save_for_backward({scale, relu ? x : at::Tensor()});
    if (residual) context->saved_data["residual_type"] = residual->scalar_type();
    return x;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto &scale = saved[0], &y = saved[1];
    const auto grad_y =
        grads[0].contiguous(y.defined() ? y.suggest_memory_format() : grads[0].suggest_memory_format());
    const auto residual_type = context->saved_data.find("residual_type");
    const bool of_x = context->needs_input_grad(0), of_shift = context->needs_input_grad(1);
    const bool of_residual = residual_type != context->saved_data.end() && context->needs_input_grad(2);

    // The gradient before the ReLU is that of the sum: of the residual, of the shift in each pixel, and of x without
    // scale.
    at::Tensor masked = grad_y, to_masked, grad_x;
    if (y.defined() && (of_shift || of_residual || (of_x && !scale.defined()))) {
      masked = to_masked = at::empty_like(grad_y);
    }
    if (of_x && scale.defined()) grad_x = at::empty_like(grad_y);
    if (to_masked.defined() || grad_x.defined()) {
      MRB_DISPATCH(channel_affine_backward, grad_y, grad_y, y, scale, grad_x, to_masked);
    }
    if (of_x && !scale.defined()) grad_x = masked;
    at::Tensor grad_shift, grad_residual;
    if (of_shift) grad_shift = masked.sum({0, 2, 3}, /*keepdim=*/false, at::toOpMathType(masked.scalar_type()));
    if (of_residual) grad_residual = masked.to(residual_type->second.toScalarType());
    return {grad_x, grad_shift, grad_residual, at::Tensor(), at::Tensor()};
  }
};

}  // namespace
}  // namespace mrb

int mrb_channel_affine(mrb_error* error, at::Tensor** y, const at::Tensor* x, const at::Tensor* scale,
                       const at::Tensor* shift, const at::Tensor* residual, bool relu) {
  return mrb::guarded(error, [&] {
    TORCH_CHECK(x->dim() == 4, "channel_affine: x must be [N, C, H, W], not ", x->sizes());
    TORCH_CHECK(shift->dim() == 1 && shift->size(0) == x->size(1), "channel_affine: ", x->size(1),
                " channels, but a shift of shape ", shift->sizes());
    TORCH_CHECK(!scale || scale->sizes() == shift->sizes(), "channel_affine: a shift of shape ", shift->sizes(),
                ", but a scale of ", scale ? scale->sizes() : shift->sizes());
    TORCH_CHECK(!residual || residual->sizes() == x->sizes(), "channel_affine: x of shape ", x->sizes(),
                ", but a residual of ", residual ? residual->sizes() : x->sizes());
    mrb::check_device("channel_affine", {x, shift, scale ? scale : x, residual ? residual : x});
    const auto dense = x->contiguous(x->suggest_memory_format());
    const auto type = at::toOpMathType(x->scalar_type());
    const auto optional = [](const at::Tensor* tensor) { return tensor ? std::make_optional(*tensor) : std::nullopt; };
    auto factor = optional(scale);
    if (factor) factor = factor->detach().to(type).contiguous();
    // Outside of the function, so that the shift's gradient is converted back.
    const auto summand = shift->to(type).contiguous();
    *y = new at::Tensor(mrb::ChannelAffine::apply(dense, summand, optional(residual), factor, relu));
  });
}
