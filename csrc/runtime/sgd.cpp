// Stochastic gradient descent with momentum, all parameters in one call. Every product and sum is rounded where
// torch.optim.SGD rounds it.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <vector>

#include "guard.h"
#include "ops/common/simd.h"

namespace mrb {
namespace sgd {

// In a function of its own so that the compiler cannot merge this product with the sum that follows into one rounding.
#define MRB_DEFINE(T, FMA)                                                                                       \
  MRB_SIMD void scale(T* __restrict__ values, T factor, int64_t n) {                                             \
    for (int64_t i = 0; i < n; ++i) values[i] *= factor;                                                         \
  }                                                                                                              \
  MRB_SIMD void add_decay(T* __restrict__ sum, const T* __restrict__ gradient, const T* __restrict__ parameter,  \
                          T decay, int64_t n) {                                                                  \
    for (int64_t i = 0; i < n; ++i) sum[i] += FMA(decay, parameter[i], gradient[i]);                             \
  }                                                                                                              \
  MRB_SIMD void add(T* __restrict__ sum, const T* __restrict__ gradient, int64_t n) {                            \
    for (int64_t i = 0; i < n; ++i) sum[i] += gradient[i];                                                       \
  }                                                                                                              \
  MRB_SIMD void set_decayed(T* __restrict__ out, const T* __restrict__ gradient, const T* __restrict__ parameter, \
                            T decay, int64_t n) {                                                                \
    for (int64_t i = 0; i < n; ++i) out[i] = FMA(decay, parameter[i], gradient[i]);                              \
  }                                                                                                              \
  MRB_SIMD void descend(T* __restrict__ parameter, const T* __restrict__ update, T rate, int64_t n) {            \
    for (int64_t i = 0; i < n; ++i) parameter[i] = FMA(-rate, update[i], parameter[i]);                          \
  }

MRB_DEFINE(float, __builtin_fmaf)
MRB_DEFINE(double, __builtin_fma)
#undef MRB_DEFINE

}  // namespace sgd

namespace {

using namespace sgd;

// Values that stay in the first cache between the passes over them.
constexpr int64_t kBlock = 1024;

template <typename T>
void step_block(const mrb_sgd_parameter& settings, double momentum, T* parameter, const T* gradient, T* velocity,
                int64_t n) {
  const auto rate = static_cast<T>(settings.lr), decay = static_cast<T>(settings.weight_decay);
  if (velocity == nullptr) {
    T decayed[kBlock];
    if (decay == 0) return descend(parameter, gradient, rate, n);
    set_decayed(decayed, gradient, parameter, decay, n);
    return descend(parameter, decayed, rate, n);
  }
  if (settings.first) {
    if (decay == 0) {
      std::copy(gradient, gradient + n, velocity);
    } else {
      set_decayed(velocity, gradient, parameter, decay, n);
    }
  } else {
    scale(velocity, static_cast<T>(momentum), n);
    if (decay == 0) {
      add(velocity, gradient, n);
    } else {
      add_decay(velocity, gradient, parameter, decay, n);
    }
  }
  descend(parameter, velocity, rate, n);
}

// The tensor's values in the order in which `like`, which is dense, has them in memory. Strides of dimensions of size 1
// do not matter: in channels-last, cuDNN has others for the gradients of 1x1 filters.
at::Tensor laid_out_as(const at::Tensor& tensor, const at::Tensor& like) {
  for (int64_t i = 0; i < like.dim(); ++i) {
    if (like.size(i) != 1 && tensor.stride(i) != like.stride(i)) return at::empty_like(like).copy_(tensor);
  }
  return tensor;
}

template <typename T>
void step_cpu(const mrb_sgd_parameter& settings, double momentum) {
  const auto& parameter = *settings.parameter;
  const auto gradient = laid_out_as(parameter.grad(), parameter);
  const auto velocity = settings.momentum_buffer ? laid_out_as(*settings.momentum_buffer, parameter) : at::Tensor();
  auto* p = parameter.mutable_data_ptr<T>();
  const auto* g = gradient.const_data_ptr<T>();
  auto* v = velocity.defined() ? velocity.mutable_data_ptr<T>() : nullptr;
  at::parallel_for(0, parameter.numel(), 32 * kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kBlock) {
      step_block<T>(settings, momentum, p + i, g + i, v ? v + i : nullptr, std::min(kBlock, end - i));
    }
  });
  if (velocity.defined() && !velocity.is_same(*settings.momentum_buffer)) settings.momentum_buffer->copy_(velocity);
}

void check(const mrb_sgd_parameter& settings) {
  const auto& parameter = *settings.parameter;
  const auto& gradient = parameter.grad();
  TORCH_CHECK(gradient.defined(), "sgd: a parameter has no gradient");
  TORCH_CHECK(parameter.is_non_overlapping_and_dense(), "sgd: a parameter is no dense tensor");
  for (const auto* other : {&gradient, settings.momentum_buffer}) {
    TORCH_CHECK(!other || (other->sizes() == parameter.sizes() && other->scalar_type() == parameter.scalar_type() &&
                           other->device() == parameter.device()),
                "sgd: a parameter is ", parameter.toString(), parameter.sizes(), ", its gradient or momentum ",
                other->toString(), other->sizes());
  }
}

// One kernel for all parameters of the same settings.
void step_fused(const std::vector<const mrb_sgd_parameter*>& list, double momentum) {
  std::map<std::tuple<double, double, bool>, std::array<std::vector<at::Tensor>, 3>> groups;
  for (const auto* settings : list) {
    auto& group = groups[{settings->lr, settings->weight_decay, settings->first}];
    group[0].push_back(*settings->parameter);
    group[1].push_back(laid_out_as(settings->parameter->grad(), *settings->parameter));
    if (settings->momentum_buffer) group[2].push_back(*settings->momentum_buffer);
  }
  for (const auto& [key, tensors] : groups) {
    const auto& [lr, weight_decay, first] = key;
    at::_fused_sgd_(tensors[0], tensors[1], tensors[2], weight_decay, momentum, lr, /*dampening=*/0.0,
                    /*nesterov=*/false, /*maximize=*/false, /*is_first_step=*/first);
  }
}

}  // namespace
}  // namespace mrb

int mrb_sgd_step(mrb_error* error, const mrb_sgd_parameter* parameters, size_t len, double momentum) {
  return mrb::guarded(error, [&] {
    std::vector<const mrb_sgd_parameter*> elsewhere;
    for (size_t i = 0; i < len; ++i) {
      const auto& settings = parameters[i];
      mrb::check(settings);
      if (!settings.parameter->is_cpu()) {
        elsewhere.push_back(&settings);
      } else if (settings.parameter->scalar_type() == at::kDouble) {
        mrb::step_cpu<double>(settings, momentum);
      } else {
        mrb::step_cpu<float>(settings, momentum);
      }
    }
    if (!elsewhere.empty()) mrb::step_fused(elsewhere, momentum);
    // What autograd has saved of the old values must not be used with the new ones.
    for (size_t i = 0; i < len; ++i) parameters[i].parameter->unsafeGetTensorImpl()->bump_version();
  });
}
