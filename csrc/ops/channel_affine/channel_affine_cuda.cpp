#include "ops/channel_affine/channel_affine_cuda.h"

#include "cuda/tensor.h"
#include "ops/channel_affine/channel_affine.h"

namespace mrb {
namespace {

const float* constants(const at::Tensor& values) {
  return values.defined() ? values.const_data_ptr<float>() : nullptr;
}

}  // namespace

void channel_affine_forward_cuda(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                                 const at::Tensor& residual, bool relu) {
  constexpr auto op = "channel_affine";
  const cuda::Guard guard(x.device());
  const auto type = cuda::scalar_type(op, x);
  const auto rows = rows_of(x);
  cuda::check(op, mrb_cuda_channel_affine_forward(x.mutable_data_ptr(), constants(scale), constants(shift),
                                                  cuda::data(residual), relu, &rows, type, cuda::current_stream()));
}

void channel_affine_backward_cuda(const at::Tensor& grad_y, const at::Tensor& y, const at::Tensor& scale,
                                  const at::Tensor& grad_x, const at::Tensor& masked) {
  constexpr auto op = "channel_affine";
  const cuda::Guard guard(grad_y.device());
  const auto type = cuda::scalar_type(op, grad_y);
  const auto rows = rows_of(grad_y);
  cuda::check(op, mrb_cuda_channel_affine_backward(grad_y.const_data_ptr(), cuda::data(y), constants(scale),
                                                   cuda::mutable_data(grad_x), cuda::mutable_data(masked), &rows, type,
                                                   cuda::current_stream()));
}

}  // namespace mrb
