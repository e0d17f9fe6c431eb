#include "ops/frozen_norm/frozen_norm.h"

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

struct FrozenNorm : torch::autograd::Function<FrozenNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& scale,
                            const at::Tensor& shift, const std::optional<at::Tensor>& residual, bool relu) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto added = residual ? residual->to(x.scalar_type()).contiguous(x.suggest_memory_format()) : at::Tensor();
    MRB_DISPATCH(frozen_norm_forward, x, x, scale, shift, added, relu);
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
    const bool with_residual = residual_type != context->saved_data.end() && context->needs_input_grad(3);
    at::Tensor grad_x, grad_residual;
    if (context->needs_input_grad(0)) grad_x = at::empty_like(grad_y);
    if (with_residual && y.defined()) grad_residual = at::empty_like(grad_y);
    MRB_DISPATCH(frozen_norm_backward, grad_y, grad_y, y, scale, grad_x, grad_residual);
    if (with_residual) {
      grad_residual = (y.defined() ? grad_residual : grad_y).to(residual_type->second.toScalarType());
    }
    return {grad_x, at::Tensor(), at::Tensor(), grad_residual, at::Tensor()};
  }
};

}  // namespace
}  // namespace mrb

int mrb_frozen_norm(mrb_error* error, at::Tensor** y, const at::Tensor* x, const at::Tensor* scale,
                    const at::Tensor* shift, const at::Tensor* residual, bool relu) {
  return mrb::guarded(error, [&] {
    TORCH_CHECK(x->dim() == 4, "frozen_norm: x must be [N, C, H, W], not ", x->sizes());
    TORCH_CHECK(scale->dim() == 1 && scale->size(0) == x->size(1) && scale->sizes() == shift->sizes(),
                "frozen_norm: ", x->size(1), " channels, but a scale of shape ", scale->sizes(), " and a shift of ",
                shift->sizes());
    TORCH_CHECK(!residual || residual->sizes() == x->sizes(), "frozen_norm: x of shape ", x->sizes(),
                ", but a residual of ", residual ? residual->sizes() : x->sizes());
    mrb::check_device("frozen_norm", {x, scale, shift, residual ? residual : x});
    const auto dense = x->contiguous(x->suggest_memory_format());
    const auto type = at::toOpMathType(x->scalar_type());
    const auto constant = [&](const at::Tensor& values) { return values.detach().to(type).contiguous(); };
    *y = new at::Tensor(mrb::FrozenNorm::apply(dense, constant(*scale), constant(*shift),
                                               residual ? std::make_optional(*residual) : std::nullopt, relu));
  });
}
