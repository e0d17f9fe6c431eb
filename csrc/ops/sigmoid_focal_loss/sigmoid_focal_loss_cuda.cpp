#include "ops/sigmoid_focal_loss/sigmoid_focal_loss_cuda.h"

#include <ATen/ops/empty_like.h>

#include "cuda/tensor.h"
#include "ops/sigmoid_focal_loss/sigmoid_focal_loss.h"

namespace mrb {

at::Tensor sigmoid_focal_loss_forward_cuda(const at::Tensor& logits, const at::Tensor& targets, double gamma,
                                           double alpha) {
  constexpr auto op = "sigmoid_focal_loss";
  const cuda::Guard guard(logits.device());
  auto loss = at::empty_like(logits);
  cuda::check(op, mrb_cuda_sigmoid_focal_loss_forward(
                      logits.const_data_ptr(), targets.const_data_ptr<int32_t>(), logits.size(0), logits.size(1),
                      static_cast<float>(gamma), static_cast<float>(alpha), cuda::scalar_type(op, logits),
                      loss.mutable_data_ptr(), cuda::current_stream()));
  return loss;
}

at::Tensor sigmoid_focal_loss_backward_cuda(const at::Tensor& grad_loss, const at::Tensor& logits,
                                            const at::Tensor& targets, double gamma, double alpha) {
  constexpr auto op = "sigmoid_focal_loss";
  const cuda::Guard guard(logits.device());
  const auto grads = grad_loss.contiguous();
  auto grad_logits = at::empty_like(logits);
  cuda::check(op, mrb_cuda_sigmoid_focal_loss_backward(
                      grads.const_data_ptr(), logits.const_data_ptr(), targets.const_data_ptr<int32_t>(),
                      logits.size(0), logits.size(1), static_cast<float>(gamma), static_cast<float>(alpha),
                      cuda::scalar_type(op, logits), grad_logits.mutable_data_ptr(), cuda::current_stream()));
  return grad_logits;
}

}  // namespace mrb
