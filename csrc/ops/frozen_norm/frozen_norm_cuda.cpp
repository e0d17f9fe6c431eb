#include "ops/frozen_norm/frozen_norm_cuda.h"

#include "cuda/tensor.h"
#include "ops/frozen_norm/frozen_norm.h"

namespace mrb {
void frozen_norm_forward_cuda(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                              const at::Tensor& residual, bool relu) {
  constexpr auto op = "frozen_norm";
  const cuda::Guard guard(x.device());
  const auto type = cuda::scalar_type(op, x);
  const auto rows = rows_of(x);
  cuda::check(op, mrb_cuda_frozen_norm_forward(x.mutable_data_ptr(), scale.const_data_ptr<float>(),
                                               shift.const_data_ptr<float>(), cuda::data(residual), relu, &rows,
                                               type, cuda::current_stream()));
}

void frozen_norm_backward_cuda(const at::Tensor& grad_y, const at::Tensor& y, const at::Tensor& scale,
                               const at::Tensor& grad_x, const at::Tensor& grad_residual) {
  constexpr auto op = "frozen_norm";
  const cuda::Guard guard(grad_y.device());
  const auto type = cuda::scalar_type(op, grad_y);
  const auto rows = rows_of(grad_y);
  cuda::check(op, mrb_cuda_frozen_norm_backward(grad_y.const_data_ptr(), cuda::data(y), scale.const_data_ptr<float>(),
                                                cuda::mutable_data(grad_x), cuda::mutable_data(grad_residual),
                                                &rows, type, cuda::current_stream()));
}

}  // namespace mrb
