// Some images at a time are sampled into a matrix of columns, which one matrix product for all groups multiplies with
// the weights.
#include "ops/deform_conv/deform_conv_cuda.h"

#include <ATen/Context.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "cuda/tensor.h"
#include "ops/deform_conv/deform_conv.h"

namespace mrb {
namespace {

// The tensors of an operator, contiguous.
class DeformConv {
 public:
  static constexpr auto op = "deform_conv";

  DeformConv(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask, const at::Tensor& weight,
             const DeformConvGeometry& geometry)
      : input_(input.contiguous()),
        offset_(offset.contiguous()),
        mask_(mask.defined() ? mask.contiguous() : mask),
        groups_(geometry.groups),
        outputs_(weight.size(0)),
        type_(cuda::scalar_type(op, input)) {
    const auto size = deform_conv_output_size(input, weight, geometry);
    shape_ = {input.size(0), input.size(1), input.size(2), input.size(3),
              weight.size(2), weight.size(3), size[0], size[1], geometry};
    rows_ = shape_.channels * shape_.kernel_h * shape_.kernel_w;
    weight_ = weight.reshape({groups_, outputs_ / groups_, rows_ / groups_});
    step_ = std::clamp<int64_t>(cuda::deform_conv_columns / std::max<int64_t>(rows_ * positions(), 1), 1,
                                std::max<int64_t>(shape_.images, 1));
  }

  at::Tensor forward() const {
    auto output = at::empty({shape_.images, outputs_, positions()}, input_.options());
    for_each_step([&](int64_t first, int64_t count) {
      const auto columns = sample(first, count);
      output.narrow(0, first, count).copy_(images_first(at::bmm(weight_, columns), count));
    });
    return output.view({shape_.images, outputs_, shape_.out_height, shape_.out_width});
  }

  // Gradients of input, offset, weight, mask. Sums over images and positions are in float32.
  std::array<at::Tensor, 4> backward(const at::Tensor& grad_output, const std::array<bool, 4>& wanted) const {
    const auto grads = grad_output.contiguous().view({shape_.images, outputs_, positions()});
    const auto float_options = input_.options().dtype(at::kFloat);
    at::Tensor grad_input, grad_offset, grad_weight, grad_mask;
    if (wanted[0]) grad_input = at::zeros(input_.sizes(), float_options);
    if (wanted[1] || wanted[3]) {
      grad_offset = at::empty(offset_.sizes(), offset_.options());
      if (mask_.defined()) grad_mask = at::empty(mask_.sizes(), mask_.options());
    }
    if (wanted[2]) grad_weight = at::zeros(weight_.sizes(), float_options);
    const auto weight_transposed = weight_.transpose(1, 2);
    for_each_step([&](int64_t first, int64_t count) {
      const auto grad = groups_first(grads, first, count);
      if (wanted[2]) grad_weight.add_(at::bmm(grad, sample(first, count).transpose(1, 2)));
      if (!wanted[0] && !grad_offset.defined()) return;
      const auto grad_columns = at::bmm(weight_transposed, grad);
      if (grad_offset.defined()) offset_gradient(grad_columns, first, count, grad_offset, grad_mask);
      if (wanted[0]) input_gradient(grad_columns, first, count, grad_input);
    });
    if (wanted[0]) grad_input = grad_input.to(input_.scalar_type());
    if (wanted[2]) {
      grad_weight = grad_weight.to(weight_.scalar_type())
                        .view({outputs_, shape_.channels / groups_, shape_.kernel_h, shape_.kernel_w});
    }
    return {grad_input, grad_offset, grad_weight, grad_mask};
  }

 private:
  int64_t positions() const { return shape_.out_height * shape_.out_width; }

  template <typename Body>
  void for_each_step(const Body& body) const {
    for (int64_t first = 0; first < shape_.images; first += step_) {
      body(first, std::min(step_, shape_.images - first));
    }
  }

  mrb_cuda_deform_conv_shape shape_of(int64_t count) const {
    auto shape = shape_;
    shape.images = count;
    return shape;
  }

  // [groups, channels and kernel positions of the group, images and positions]
  at::Tensor sample(int64_t first, int64_t count) const {
    auto columns = at::empty({groups_, rows_ / groups_, count * positions()}, input_.options());
    const auto shape = shape_of(count);
    const auto input = input_.narrow(0, first, count), offset = offset_.narrow(0, first, count);
    const auto mask = mask_.defined() ? mask_.narrow(0, first, count) : mask_;
    cuda::check(op, mrb_cuda_deform_conv_columns(input.const_data_ptr(), offset.const_data_ptr(), cuda::data(mask),
                                                 &shape, type_, columns.mutable_data_ptr(), cuda::current_stream()));
    return columns;
  }

  // [groups, outputs of the group, images and positions] as [images, outputs, positions]
  at::Tensor images_first(const at::Tensor& products, int64_t count) const {
    return products.view({outputs_, count, positions()}).transpose(0, 1);
  }

  // The other way, for the images first .. first + count.
  at::Tensor groups_first(const at::Tensor& grads, int64_t first, int64_t count) const {
    return grads.narrow(0, first, count).transpose(0, 1).reshape({groups_, outputs_ / groups_, count * positions()});
  }

  void offset_gradient(const at::Tensor& grad_columns, int64_t first, int64_t count, at::Tensor& grad_offset,
                       at::Tensor& grad_mask) const {
    const auto shape = shape_of(count);
    const auto input = input_.narrow(0, first, count), offset = offset_.narrow(0, first, count);
    const auto mask = mask_.defined() ? mask_.narrow(0, first, count) : mask_;
    auto to_offset = grad_offset.narrow(0, first, count);
    auto to_mask = grad_mask.defined() ? grad_mask.narrow(0, first, count) : grad_mask;
    cuda::check(op, mrb_cuda_deform_conv_backward_offset(
                        grad_columns.const_data_ptr(), input.const_data_ptr(), offset.const_data_ptr(),
                        cuda::data(mask), &shape, type_, to_offset.mutable_data_ptr(),
                        cuda::mutable_data(to_mask), cuda::current_stream()));
  }

  void input_gradient(const at::Tensor& grad_columns, int64_t first, int64_t count, at::Tensor& grad_input) const {
    const auto shape = shape_of(count);
    const auto offset = offset_.narrow(0, first, count);
    const auto mask = mask_.defined() ? mask_.narrow(0, first, count) : mask_;
    auto to_input = grad_input.narrow(0, first, count);
    cuda::check(op, mrb_cuda_deform_conv_backward_input(grad_columns.const_data_ptr(), offset.const_data_ptr(),
                                                        cuda::data(mask), &shape, type_, to_input.mutable_data_ptr<float>(),
                                                        cuda::current_stream()));
  }

  at::Tensor input_, offset_, mask_, weight_;
  int64_t groups_, outputs_;
  mrb_scalar_type type_;
  mrb_cuda_deform_conv_shape shape_;
  int64_t rows_, step_;  // channels times kernel positions; images of one product
};

}  // namespace

at::Tensor deform_conv_forward_cuda(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask,
                                    const at::Tensor& weight, const DeformConvGeometry& geometry) {
  const cuda::Guard guard(input.device());
  return DeformConv(input, offset, mask, weight, geometry).forward().contiguous(input.suggest_memory_format());
}

std::array<at::Tensor, 4> deform_conv_backward_cuda(const at::Tensor& grad_output, const at::Tensor& input,
                                                    const at::Tensor& offset, const at::Tensor& mask,
                                                    const at::Tensor& weight, const DeformConvGeometry& geometry,
                                                    const std::array<bool, 4>& wanted) {
  const cuda::Guard guard(input.device());
  // Threads add to the same pixels in any order.
  TORCH_CHECK(!wanted[0] || !at::globalContext().deterministicAlgorithms(),
              "deform_conv: on CUDA the input's gradient is not the same every time: train without --deterministic");
  auto grads = DeformConv(input, offset, mask, weight, geometry).backward(grad_output, wanted);
  if (grads[0].defined()) grads[0] = grads[0].contiguous(input.suggest_memory_format());
  return grads;
}

}  // namespace mrb
