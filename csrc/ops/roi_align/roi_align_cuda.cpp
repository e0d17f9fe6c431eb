#include <ATen/Context.h>
#include <ATen/ops/empty.h>

#include "cuda/tensor.h"
#include "ops/common/roi_tensor.h"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/roi_align_cuda.h"

namespace mrb {
at::Tensor roi_align_forward_cuda(const at::Tensor& input, const at::Tensor& rois, const RoiAlignShape& shape) {
  const cuda::Guard guard(input.device());
  const auto type = cuda::scalar_type("roi_align", input);
  const auto format = input.suggest_memory_format();
  auto output = at::empty({rois.size(0), input.size(1), shape.pooled_height, shape.pooled_width},
                          input.options().memory_format(format));
  if (output.numel() == 0) return output;
  const auto regions = rois.contiguous();
  const auto sizes = roi_sizes(input, output, format, shape.spatial_scale);
  cuda::check("roi_align", mrb_cuda_roi_align_forward(input.const_data_ptr(), regions.const_data_ptr<float>(),
                                                      output.mutable_data_ptr(), &sizes, shape.sampling_ratio, type,
                                                      cuda::current_stream()));
  return output;
}

at::Tensor roi_align_backward_cuda(const at::Tensor& grad_output, const at::Tensor& rois, at::IntArrayRef input_size,
                                   const RoiAlignShape& shape) {
  const cuda::Guard guard(grad_output.device());
  const auto type = cuda::scalar_type("roi_align", grad_output);
  const auto format = grad_output.suggest_memory_format();
  const auto grads = grad_output.contiguous(format), regions = rois.contiguous();
  const bool deterministic = at::globalContext().deterministicAlgorithms();
  auto grad_input = roi_grad_input(grad_output, input_size, format, deterministic);
  if (grad_input.numel() == 0) return grad_input.to(grad_output.scalar_type());
  const auto sizes = roi_sizes(grad_input, grads, format, shape.spatial_scale);
  const auto* roi_data = regions.const_data_ptr<float>();
  if (deterministic) {
    cuda::check("roi_align", mrb_cuda_roi_align_backward_deterministic(
                                 grads.const_data_ptr(), roi_data, grad_input.mutable_data_ptr(), &sizes,
                                 shape.sampling_ratio, type, cuda::current_stream()));
    return grad_input;
  }
  cuda::check("roi_align",
              mrb_cuda_roi_align_backward(grads.const_data_ptr(), roi_data, grad_input.mutable_data_ptr<float>(),
                                          &sizes, shape.sampling_ratio, type, cuda::current_stream()));
  return grad_input.to(grad_output.scalar_type());
}

}  // namespace mrb
