// Autocast casts each weight when it is first used, and each gradient back: two small kernels for every parameter in
// every training step. Here many are cast by one, and their gradients come back by one.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>
#include <unordered_map>
#include <vector>

#include "runtime/autocast.h"

namespace mrb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// As much as a bucket of c10d's Reducer: the processes of a job can begin to average a group's gradients while those of
// the next are computed.
constexpr int64_t group_bytes = 25 << 20;

variable_list cast_all(at::TensorList tensors, at::ScalarType type) {
  variable_list casts;
  for (const auto& tensor : tensors) casts.push_back(at::empty_like(tensor, tensor.options().dtype(type)));
  at::_foreach_copy_(casts, tensors);
  return casts;
}

// Of float32 weights.
struct CastGroup : torch::autograd::Function<CastGroup> {
  static variable_list forward(AutogradContext* context, at::TensorList weights, int64_t type) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->set_materialize_grads(false);
    return cast_all(weights, static_cast<at::ScalarType>(type));
  }

  static variable_list backward(AutogradContext*, variable_list grads) {
    variable_list used;
    for (const auto& grad : grads) {
      if (grad.defined()) used.push_back(grad);
    }
    auto casts = used.empty() ? variable_list() : cast_all(used, at::kFloat);
    auto next = casts.begin();
    for (auto& grad : grads) {
      if (grad.defined()) grad = *next++;
    }
    casts.clear();  // the parameters keep a gradient that nobody else holds, and copy any other
    grads.emplace_back();
    return grads;
  }
};

// The casts of this thread's weights. Whoever has put one in holds its weight.
thread_local std::unordered_map<const c10::TensorImpl*, at::Tensor> casts_of;

void cast_group(const variable_list& weights, at::ScalarType type) {
  const auto casts = CastGroup::apply(at::TensorList(weights), static_cast<int64_t>(type));
  // Of what can run, the backward pass takes the latest of the forward pass first. These were made before everything
  // else, and would all come at its end.
  if (const auto& node = casts[0].grad_fn()) node->set_sequence_nr(std::numeric_limits<uint64_t>::max());
  for (size_t i = 0; i < weights.size(); ++i) casts_of[weights[i].unsafeGetTensorImpl()] = casts[i];
}

}  // namespace

void forget_casts() { casts_of.clear(); }

}  // namespace mrb

int mrb_cast_weights(mrb_error* error, const at::Tensor* const* weights, size_t len) {
  return mrb::guarded(error, [&] {
    mrb::forget_casts();
    if (len == 0 || !at::GradMode::is_enabled()) return;
    const auto device = weights[0]->device().type();
    if (!at::autocast::is_autocast_enabled(device)) return;
    const auto type = at::autocast::get_autocast_dtype(device);
    mrb::variable_list group;
    int64_t bytes = 0;
    for (size_t i = 0; i < len; ++i) {
      TORCH_CHECK(weights[i]->device() == weights[0]->device() && weights[i]->scalar_type() == at::kFloat,
                  "cast_weights: a weight is ", weights[i]->toString(), " on ", weights[i]->device(),
                  " instead of float32 on ", weights[0]->device());
      const auto size = static_cast<int64_t>(weights[i]->nbytes());
      if (!group.empty() && bytes + size > mrb::group_bytes) {
        mrb::cast_group(group, type);
        group.clear();
        bytes = 0;
      }
      group.push_back(*weights[i]);
      bytes += size;
    }
    mrb::cast_group(group, type);
  });
}

bool mrb_grad_enabled() { return at::GradMode::is_enabled(); }

int mrb_cast_of(mrb_error* error, at::Tensor** output, const at::Tensor* weight) {
  return mrb::guarded(error, [&] {
    const auto found = mrb::casts_of.find(weight->unsafeGetTensorImpl());
    *output = new at::Tensor(found == mrb::casts_of.end() ? *weight : found->second);
  });
}
