#include "ops/deform_roi_pool/deform_roi_pool_cuda.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "cuda/tensor.h"
#include "ops/deform_roi_pool/deform_roi_pool.h"

namespace mrb {
namespace {

constexpr auto op = "deform_roi_pool";

mrb_cuda_deform_roi_pool_shape shape_of(const at::Tensor& input, const at::Tensor& rois, const at::Tensor& trans,
                                        const DeformRoiPoolGeometry& geometry) {
  return {input.size(0), input.size(2),  input.size(3), rois.size(0), trans.defined() ? trans.size(1) / 2 : 1,
          geometry};
}

// The offsets in the input's type, which is the kernels' one.
at::Tensor plain(const at::Tensor& trans, const at::Tensor& input) {
  return trans.defined() ? trans.to(input.scalar_type()).contiguous() : trans;
}

}  // namespace

at::Tensor deform_roi_pool_forward_cuda(const at::Tensor& input, const at::Tensor& rois, const at::Tensor& trans,
                                        const DeformRoiPoolGeometry& geometry) {
  const cuda::Guard guard(input.device());
  const auto map = input.contiguous(), regions = rois.contiguous(), offsets = plain(trans, input);
  const auto shape = shape_of(map, regions, offsets, geometry);
  auto output = at::empty({shape.rois, geometry.output_dim, geometry.pooled_size, geometry.pooled_size},
                          map.options());
  cuda::check(op, mrb_cuda_deform_roi_pool_forward(
                      map.const_data_ptr(), regions.const_data_ptr<float>(), cuda::data(offsets), &shape,
                      cuda::scalar_type(op, map), output.mutable_data_ptr(), cuda::current_stream()));
  return output;
}

std::array<at::Tensor, 2> deform_roi_pool_backward_cuda(const at::Tensor& grad_output, const at::Tensor& input,
                                                        const at::Tensor& rois, const at::Tensor& trans,
                                                        const DeformRoiPoolGeometry& geometry) {
  const cuda::Guard guard(input.device());
  // Threads add to the same pixels in any order.
  TORCH_CHECK(!at::globalContext().deterministicAlgorithms(),
              "deform_roi_pool: on CUDA gradients are not the same every time: train without --deterministic");
  const auto grads = grad_output.contiguous(), map = input.contiguous(), regions = rois.contiguous();
  const auto offsets = plain(trans, input);
  const auto shape = shape_of(map, regions, offsets, geometry);
  auto grad_input = at::zeros(map.sizes(), map.options().dtype(at::kFloat));
  at::Tensor grad_trans;
  if (trans.defined()) grad_trans = at::zeros(offsets.sizes(), offsets.options().dtype(at::kFloat));
  cuda::check(op, mrb_cuda_deform_roi_pool_backward(
                      grads.const_data_ptr(), map.const_data_ptr(), regions.const_data_ptr<float>(),
                      cuda::data(offsets), &shape, cuda::scalar_type(op, map), grad_input.mutable_data_ptr<float>(),
                      trans.defined() ? grad_trans.mutable_data_ptr<float>() : nullptr, cuda::current_stream()));
  if (trans.defined()) grad_trans = grad_trans.to(trans.scalar_type());
  return {grad_input.to(input.scalar_type()), grad_trans};
}

}  // namespace mrb
