#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ops/ones_like.h>

#include <algorithm>
#include <type_traits>

#include "ops/channel_affine/channel_affine.h"

namespace mrb {
namespace {

// A number a row, or one for each of its values.
template <bool each, typename T>
struct Constant {
  const T* values;
  T operator[](int64_t i) const { return each ? values[i] : *values; }
};

template <typename Function>
void for_rows(const mrb_map_rows& rows, const Function& function) {
  const auto grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, rows.length));
  at::parallel_for(0, rows.rows, grain, [&](int64_t begin, int64_t end) {
    for (auto row = begin; row < end; ++row) {
      if (rows.channels_last) {
        function(row * rows.length, std::true_type{}, int64_t{0});
      } else {
        function(row * rows.length, std::false_type{}, row % rows.channels);
      }
    }
  });
}

template <bool relu, bool add, bool each, typename T, typename M>
void forward_row(T* __restrict__ x, Constant<each, M> scale, Constant<each, M> shift, const T* __restrict__ residual,
                 int64_t length) {
  for (int64_t i = 0; i < length; ++i) {
    M value = static_cast<M>(x[i]) * scale[i];
    value = value + shift[i];
    if constexpr (add) value = value + static_cast<M>(residual[i]);
    if constexpr (relu) value = value < 0 ? M(0) : value;  // not a number stays so
    x[i] = static_cast<T>(value);
  }
}

template <bool relu, bool with_x, bool with_masked, bool each, typename T, typename M>
void backward_row(const T* __restrict__ grad_y, const T* __restrict__ y, Constant<each, M> scale,
                  T* __restrict__ grad_x, T* __restrict__ masked, int64_t length) {
  for (int64_t i = 0; i < length; ++i) {
    T grad = grad_y[i];
    if constexpr (relu) grad = static_cast<M>(y[i]) <= 0 ? T(0) : grad;
    if constexpr (with_masked) masked[i] = grad;
    if constexpr (with_x) grad_x[i] = static_cast<T>(static_cast<M>(grad) * scale[i]);
  }
}

// Calls `function` with std::true_type or std::false_type for each flag.
template <typename Function>
void with_flags(const Function& function) {
  function();
}
template <typename Function, typename... Flags>
void with_flags(const Function& function, bool flag, Flags... flags) {
  if (flag) {
    with_flags([&](auto... rest) { function(std::true_type{}, rest...); }, flags...);
  } else {
    with_flags([&](auto... rest) { function(std::false_type{}, rest...); }, flags...);
  }
}

template <typename T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}
template <typename T>
T* mutable_data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}
template <typename T>
T* offset_or_null(T* data, int64_t offset) {
  return data ? data + offset : nullptr;
}

}  // namespace

void channel_affine_forward_cpu(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                                const at::Tensor& residual, bool relu) {
  const auto rows = rows_of(x);
  const auto all_scales = scale.defined() ? scale : at::ones_like(shift);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "channel_affine_forward", [&] {
    using M = at::opmath_type<scalar_t>;
    auto* out = x.mutable_data_ptr<scalar_t>();
    const auto *factors = all_scales.const_data_ptr<M>(), *summands = shift.const_data_ptr<M>();
    const auto* added = data_or_null<scalar_t>(residual);
    with_flags(
        [&](auto with_relu, auto with_residual) {
          for_rows(rows, [&](int64_t start, auto each, int64_t channel) {
            forward_row<with_relu.value, with_residual.value, each.value, scalar_t, M>(
                out + start, {factors + channel}, {summands + channel}, offset_or_null(added, start), rows.length);
          });
        },
        relu, residual.defined());
  });
}

void channel_affine_backward_cpu(const at::Tensor& grad_y, const at::Tensor& y, const at::Tensor& scale,
                                 const at::Tensor& grad_x, const at::Tensor& masked) {
  const auto rows = rows_of(grad_y);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, grad_y.scalar_type(), "channel_affine_backward", [&] {
    using M = at::opmath_type<scalar_t>;
    const auto *grads = grad_y.const_data_ptr<scalar_t>(), *results = data_or_null<scalar_t>(y);
    const auto* factors = data_or_null<M>(scale);
    auto *to_x = mutable_data_or_null<scalar_t>(grad_x), *to_masked = mutable_data_or_null<scalar_t>(masked);
    with_flags(
        [&](auto with_relu, auto with_x, auto with_masked) {
          for_rows(rows, [&](int64_t start, auto each, int64_t channel) {
            backward_row<with_relu.value, with_x.value, with_masked.value, each.value, scalar_t, M>(
                grads + start, offset_or_null(results, start), {offset_or_null(factors, channel)},
                offset_or_null(to_x, start), offset_or_null(to_masked, start), rows.length);
          });
        },
        y.defined(), grad_x.defined(), masked.defined());
  });
}

}  // namespace mrb
