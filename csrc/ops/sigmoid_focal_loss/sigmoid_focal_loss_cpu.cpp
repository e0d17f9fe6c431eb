#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include <cfloat>

#include "ops/common/float_math.h"
#include "ops/common/simd.h"
#include "ops/sigmoid_focal_loss/sigmoid_focal_loss.h"

namespace mrb {
namespace {

template <bool square, typename T>
MRB_INLINE T power(T base, T gamma) {
  if constexpr (square) return base * base;
  const T positive = base > T(FLT_MIN) ? base : T(FLT_MIN);
  const T value = math::exp(gamma * math::log(positive));
  return base > 0 || gamma == 0 ? value : T(0);
}

template <typename T>
struct Terms {
  T p;          // sigmoid(x)
  T log_p;      // its logarithm, clamped below
  T log_not_p;  // log(1 - sigmoid(x))
};

template <typename T>
MRB_INLINE Terms<T> terms(T x) {
  const T p = T(1) / (T(1) + math::exp(-x));
  const T magnitude = x < 0 ? -x : x;
  const T positive = x < 0 ? T(0) : x;
  return {p, math::log(p > T(FLT_MIN) ? p : T(FLT_MIN)), -positive - math::log(T(1) + math::exp(-magnitude))};
}

template <bool square, typename T>
MRB_INLINE T loss(T x, bool is_class, bool counts, T gamma, T alpha) {
  const auto t = terms(x);
  const T hit = -alpha * power<square>(T(1) - t.p, gamma) * t.log_p;
  const T miss = -(T(1) - alpha) * power<square>(t.p, gamma) * t.log_not_p;
  return is_class ? hit : counts ? miss : T(0);
}

template <bool square, typename T>
MRB_INLINE T derivative(T x, bool is_class, bool counts, T gamma, T alpha) {
  const auto t = terms(x);
  const T hit = -alpha * power<square>(T(1) - t.p, gamma) * (T(1) - t.p - t.p * gamma * t.log_p);
  const T miss = -(T(1) - alpha) * power<square>(t.p, gamma) * (t.log_not_p * (T(1) - t.p) * gamma - t.p);
  return is_class ? hit : counts ? miss : T(0);
}

// One row of logits; gamma = 2, which everybody uses, needs no power function.
#define MRB_DEFINE(T)                                                                                              \
  MRB_SIMD void loss_row(const T* logits, int32_t target, int32_t classes, T gamma, T alpha, T* __restrict__ out) { \
    const bool counts = target >= 0;                                                                               \
    if (gamma == 2) {                                                                                              \
      for (int32_t d = 0; d < classes; ++d) out[d] = loss<true>(logits[d], target == d + 1, counts, gamma, alpha); \
    } else {                                                                                                       \
      for (int32_t d = 0; d < classes; ++d) out[d] = loss<false>(logits[d], target == d + 1, counts, gamma, alpha); \
    }                                                                                                              \
  }                                                                                                                \
  MRB_SIMD void derivative_row(const T* logits, int32_t target, int32_t classes, T gamma, T alpha, const T* grad,  \
                               T* __restrict__ out) {                                                              \
    const bool counts = target >= 0;                                                                               \
    if (gamma == 2) {                                                                                              \
      for (int32_t d = 0; d < classes; ++d) {                                                                      \
        out[d] = grad[d] * derivative<true>(logits[d], target == d + 1, counts, gamma, alpha);                     \
      }                                                                                                            \
    } else {                                                                                                       \
      for (int32_t d = 0; d < classes; ++d) {                                                                      \
        out[d] = grad[d] * derivative<false>(logits[d], target == d + 1, counts, gamma, alpha);                    \
      }                                                                                                            \
    }                                                                                                              \
  }

MRB_DEFINE(float)
MRB_DEFINE(double)
#undef MRB_DEFINE

constexpr int64_t grain = 64;  // rows

}  // namespace

at::Tensor sigmoid_focal_loss_forward_cpu(const at::Tensor& logits, const at::Tensor& targets, double gamma,
                                          double alpha) {
  const auto classes = logits.size(1);
  auto result = at::empty_like(logits);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "sigmoid_focal_loss_forward", [&] {
    const auto* x = logits.const_data_ptr<scalar_t>();
    const auto* t = targets.const_data_ptr<int32_t>();
    auto* out = result.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, logits.size(0), grain, [&](int64_t begin, int64_t end) {
      for (auto r = begin; r < end; ++r) {
        loss_row(x + r * classes, t[r], static_cast<int32_t>(classes), static_cast<scalar_t>(gamma),
                 static_cast<scalar_t>(alpha), out + r * classes);
      }
    });
  });
  return result;
}

at::Tensor sigmoid_focal_loss_backward_cpu(const at::Tensor& grad_loss, const at::Tensor& logits,
                                           const at::Tensor& targets, double gamma, double alpha) {
  const auto classes = logits.size(1);
  const auto grads = grad_loss.contiguous();
  auto result = at::empty_like(logits);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "sigmoid_focal_loss_backward", [&] {
    const auto* x = logits.const_data_ptr<scalar_t>();
    const auto* t = targets.const_data_ptr<int32_t>();
    const auto* grad = grads.const_data_ptr<scalar_t>();
    auto* out = result.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, logits.size(0), grain, [&](int64_t begin, int64_t end) {
      for (auto r = begin; r < end; ++r) {
        derivative_row(x + r * classes, t[r], static_cast<int32_t>(classes), static_cast<scalar_t>(gamma),
                       static_cast<scalar_t>(alpha), grad + r * classes, out + r * classes);
      }
    });
  });
  return result;
}

}  // namespace mrb
