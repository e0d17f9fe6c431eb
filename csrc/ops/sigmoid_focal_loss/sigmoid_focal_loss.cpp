#include "ops/sigmoid_focal_loss/sigmoid_focal_loss.h"

#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "ops/common/dispatch.h"

namespace mrb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SigmoidFocalLoss : torch::autograd::Function<SigmoidFocalLoss> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, const at::Tensor& targets,
                            double gamma, double alpha) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({logits, targets});
    context->saved_data["gamma"] = gamma;
    context->saved_data["alpha"] = alpha;
    return MRB_DISPATCH(sigmoid_focal_loss_forward, logits, logits, targets, gamma, alpha);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto gamma = context->saved_data["gamma"].toDouble(), alpha = context->saved_data["alpha"].toDouble();
    auto grad_logits =
        MRB_DISPATCH(sigmoid_focal_loss_backward, grads[0], grads[0], saved[0], saved[1], gamma, alpha);
    return {grad_logits, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace
}  // namespace mrb

int mrb_sigmoid_focal_loss(mrb_error* error, at::Tensor** loss, const at::Tensor* logits, const at::Tensor* targets,
                           double gamma, double alpha) {
  return mrb::guarded(error, [&] {
    TORCH_CHECK(logits->dim() == 2, "sigmoid_focal_loss: logits must be [R, C], not ", logits->sizes());
    TORCH_CHECK(targets->dim() == 1 && targets->size(0) == logits->size(0), "sigmoid_focal_loss: ", logits->size(0),
                " rows of logits, but targets of shape ", targets->sizes());
    mrb::check_device("sigmoid_focal_loss", {logits, targets});
    *loss = new at::Tensor(mrb::SigmoidFocalLoss::apply(
        logits->contiguous(), targets->detach().to(at::kInt).contiguous(), gamma, alpha));
  });
}
