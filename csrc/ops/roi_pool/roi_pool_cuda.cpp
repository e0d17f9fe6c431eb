#include <ATen/Context.h>
#include <ATen/ops/empty.h>

#include "cuda/tensor.h"
#include "ops/common/roi_tensor.h"
#include "ops/roi_pool/roi_pool.h"
#include "ops/roi_pool/roi_pool_cuda.h"

namespace mrb {
std::tuple<at::Tensor, at::Tensor> roi_pool_forward_cuda(const at::Tensor& input, const at::Tensor& rois,
                                                         const RoiPoolShape& shape) {
  const cuda::Guard guard(input.device());
  const auto type = cuda::scalar_type("roi_pool", input);
  const auto format = input.suggest_memory_format();
  auto output = at::empty({rois.size(0), input.size(1), shape.pooled_height, shape.pooled_width},
                          input.options().memory_format(format));
  auto argmax = at::empty(output.sizes(), output.options().dtype(at::kInt).memory_format(format));
  if (output.numel() == 0) return {output, argmax};
  const auto regions = rois.contiguous();
  const auto sizes = roi_sizes(input, output, format, shape.spatial_scale);
  cuda::check("roi_pool", mrb_cuda_roi_pool_forward(input.const_data_ptr(), regions.const_data_ptr<float>(),
                                                    output.mutable_data_ptr(), argmax.mutable_data_ptr<int32_t>(),
                                                    &sizes, type, cuda::current_stream()));
  return {output, argmax};
}

at::Tensor roi_pool_backward_cuda(const at::Tensor& grad_output, const at::Tensor& argmax, const at::Tensor& rois,
                                  at::IntArrayRef input_size, const RoiPoolShape& shape) {
  const cuda::Guard guard(grad_output.device());
  const auto type = cuda::scalar_type("roi_pool", grad_output);
  // The forward pass chose the format of argmax.
  const auto format = argmax.suggest_memory_format();
  const auto grads = grad_output.contiguous(format), regions = rois.contiguous();
  const bool deterministic = at::globalContext().deterministicAlgorithms();
  auto grad_input = deterministic ? roi_grad_input(grad_output, input_size, format, true)
                                  : at::empty(input_size, grads.options().dtype(at::kDouble).memory_format(format));
  if (grad_input.numel() == 0) return grad_input.to(grad_output.scalar_type());
  const auto sizes = roi_sizes(grad_input, grads, format, shape.spatial_scale);
  const auto* roi_data = regions.const_data_ptr<float>();
  const auto* argmax_data = argmax.const_data_ptr<int32_t>();
  if (deterministic) {
    cuda::check("roi_pool", mrb_cuda_roi_pool_backward_deterministic(grads.const_data_ptr(), argmax_data, roi_data,
                                                                     grad_input.mutable_data_ptr(), &sizes, type,
                                                                     cuda::current_stream()));
    return grad_input;
  }
  grad_input.zero_();
  cuda::check("roi_pool",
              mrb_cuda_roi_pool_backward(grads.const_data_ptr(), argmax_data, roi_data,
                                         grad_input.mutable_data_ptr<double>(), &sizes, type, cuda::current_stream()));
  return grad_input.to(grad_output.scalar_type());
}

}  // namespace mrb
