// What a training step does with many tensors at once.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "guard.h"

namespace {

std::vector<at::Tensor> gradients_of(const at::Tensor* const* parameters, size_t len) {
  std::vector<at::Tensor> gradients;
  gradients.reserve(len);
  for (size_t i = 0; i < len; ++i) {
    if (parameters[i]->grad().defined()) gradients.push_back(parameters[i]->grad());
  }
  return gradients;
}

}  // namespace

int mrb_clear_gradients(mrb_error* error, const at::Tensor* const* parameters, size_t len) {
  return mrb::guarded(error, [&] {
    for (size_t i = 0; i < len; ++i) parameters[i]->mutable_grad().reset();
  });
}

int mrb_copy_all(mrb_error* error, const at::Tensor* const* targets, const at::Tensor* const* sources, size_t len) {
  return mrb::guarded(error, [&] {
    if (len == 0) return;
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> to, from;
    for (size_t i = 0; i < len; ++i) {
      to.push_back(*targets[i]);
      from.push_back(*sources[i]);
    }
    at::_foreach_copy_(to, from);
  });
}

int mrb_unscale_gradients(mrb_error* error, at::Tensor** found_non_finite, const at::Tensor* const* parameters,
                          size_t len, double inverse_scale) {
  return mrb::guarded(error, [&] {
    const auto gradients = gradients_of(parameters, len);
    TORCH_CHECK(!gradients.empty(), "unscale_gradients: no parameter has a gradient");
    const auto options = gradients.front().options().dtype(at::kFloat);
    auto found = at::zeros({1}, options);
    at::_amp_foreach_non_finite_check_and_unscale_(gradients, found, at::full({}, inverse_scale, options));
    *found_non_finite = new at::Tensor(std::move(found));
  });
}
