#include <ATen/Context.h>
#include <ATen/ops/empty.h>

#include "cuda/tensor.h"
#include "ops/common/roi_tensor.h"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/roi_align_cuda.h"

namespace mrb {
namespace {

std::vector<mrb_cuda_roi_sizes> all_sizes(at::TensorList maps, const at::Tensor& pooled, at::MemoryFormat format,
                                          const RoiAlignShape& shape) {
  TORCH_CHECK(maps.size() <= mrb_cuda_roi_align_most_maps, "roi_align: at most ", mrb_cuda_roi_align_most_maps,
              " maps on CUDA, not ", maps.size());
  std::vector<mrb_cuda_roi_sizes> sizes;
  for (size_t i = 0; i < maps.size(); ++i) {
    sizes.push_back(roi_sizes(maps[i], pooled, format, shape.spatial_scales[i]));
  }
  return sizes;
}

const int64_t* level_data(const at::Tensor& levels) {
  return levels.defined() ? levels.const_data_ptr<int64_t>() : nullptr;
}

}  // namespace

at::Tensor roi_align_forward_cuda(at::TensorList inputs, const at::Tensor& rois, const at::Tensor& levels,
                                  const RoiAlignShape& shape) {
  const cuda::Guard guard(rois.device());
  const auto type = cuda::scalar_type("roi_align", inputs[0]);
  const auto format = inputs[0].suggest_memory_format();
  auto output = at::empty({rois.size(0), inputs[0].size(1), shape.pooled_height, shape.pooled_width},
                          inputs[0].options().memory_format(format));
  if (output.numel() == 0) return output;
  const auto regions = rois.contiguous();
  const auto sizes = all_sizes(inputs, output, format, shape);
  std::vector<const void*> data;
  for (const auto& input : inputs) data.push_back(input.const_data_ptr());
  cuda::check("roi_align", mrb_cuda_roi_align_forward(data.data(), sizes.data(), static_cast<int64_t>(sizes.size()),
                                                      regions.const_data_ptr<float>(), level_data(levels),
                                                      output.mutable_data_ptr(), shape.sampling_ratio, type,
                                                      cuda::current_stream()));
  return output;
}

std::vector<at::Tensor> roi_align_backward_cuda(const at::Tensor& grad_output, const at::Tensor& rois,
                                                const at::Tensor& levels,
                                                const std::vector<std::vector<int64_t>>& input_sizes,
                                                const RoiAlignShape& shape) {
  const cuda::Guard guard(grad_output.device());
  const auto type = cuda::scalar_type("roi_align", grad_output);
  const auto format = grad_output.suggest_memory_format();
  const auto grads = grad_output.contiguous(format), regions = rois.contiguous();
  const bool deterministic = at::globalContext().deterministicAlgorithms();
  std::vector<at::Tensor> grad_inputs;
  for (const auto& size : input_sizes) grad_inputs.push_back(roi_grad_input(grad_output, size, format, deterministic));
  const auto sizes = all_sizes(grad_inputs, grads, format, shape);
  const auto count = static_cast<int64_t>(sizes.size());
  const auto* roi_data = regions.const_data_ptr<float>();
  if (deterministic) {
    std::vector<void*> data;
    for (const auto& grad : grad_inputs) data.push_back(grad.mutable_data_ptr());
    cuda::check("roi_align", mrb_cuda_roi_align_backward_deterministic(
                                 data.data(), sizes.data(), count, roi_data, level_data(levels), grads.const_data_ptr(),
                                 shape.sampling_ratio, type, cuda::current_stream()));
    return grad_inputs;
  }
  std::vector<float*> data;
  for (const auto& grad : grad_inputs) data.push_back(grad.mutable_data_ptr<float>());
  cuda::check("roi_align", mrb_cuda_roi_align_backward(data.data(), sizes.data(), count, roi_data, level_data(levels),
                                                       grads.const_data_ptr(), shape.sampling_ratio, type,
                                                       cuda::current_stream()));
  for (auto& grad : grad_inputs) grad = grad.to(grad_output.scalar_type());
  return grad_inputs;
}

}  // namespace mrb
