// The operators that libtorch's own compiler uses for inference: one oneDNN primitive on the CPU, one cuDNN engine on
// CUDA computes the convolution, adds the bias and a residual and takes the positive part, so that the output is
// written once.
#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/cudnn_convolution_add_relu.h>
#include <ATen/ops/cudnn_convolution_relu.h>

#include <optional>
#include <string>
#include <vector>

#include "guard.h"
#include "runtime/autocast.h"

namespace mrb {
namespace {

struct Operators {
  std::optional<c10::OperatorHandle> plain, binary;

  Operators() {
    auto& dispatcher = c10::Dispatcher::singleton();
    plain = dispatcher.findSchema({"mkldnn::_convolution_pointwise", ""});
    binary = dispatcher.findSchema({"mkldnn::_convolution_pointwise", "binary"});
  }
};

const Operators& operators() {
  static const Operators found;
  return found;
}

// oneDNN's condition for convolutions in bfloat16 on x86.
bool has_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

// The type that the convolution of this input would be computed in.
at::ScalarType compute_type(const at::Tensor& input) {
  const auto device = input.device().type();
  return at::autocast::is_autocast_enabled(device) ? at::autocast::get_autocast_dtype(device) : input.scalar_type();
}

// cuDNN fuses for the tensor cores: in 16 bits or TF32, with the channels of a pixel side by side. (In NCHW, measured
// on an H200, its fused engines take up to twice as long as the convolution and a pass of its own.)
bool can_fuse_on_cuda(const at::Tensor& input) {
  auto& context = at::globalContext();
  if (!context.userEnabledCuDNN() || input.suggest_memory_format() != at::MemoryFormat::ChannelsLast) return false;
  const auto type = compute_type(input);
  return type == at::kHalf || type == at::kBFloat16 ||
         (type == at::kFloat && context.allowTF32CuDNN(at::Float32Op::CONV));
}

struct Geometry {
  int64_t stride, padding, dilation, groups;
};

at::Tensor fused_on_cuda(const at::Tensor& input, const at::Tensor& weight, const at::Tensor* bias,
                         const at::Tensor* residual, const Geometry& g) {
  const auto type = compute_type(input);
  const auto x = input.to(type), w = weight.to(type);
  const auto b = bias ? std::make_optional(bias->to(type)) : std::nullopt;
  const std::vector<int64_t> stride(2, g.stride), padding(2, g.padding), dilation(2, g.dilation);
  if (!residual) return at::cudnn_convolution_relu(x, w, b, stride, padding, dilation, g.groups);
  const auto z = residual->to(type).contiguous(at::MemoryFormat::ChannelsLast);
  return at::cudnn_convolution_add_relu(x, w, z, at::Scalar(1.0), b, stride, padding, dilation, g.groups);
}

c10::IValue cast_or_none(const at::Tensor* tensor, at::ScalarType type) {
  return tensor ? c10::IValue(tensor->to(type)) : c10::IValue();
}

}  // namespace
}  // namespace mrb

bool mrb_can_fuse_conv(const at::Tensor* input) {
  if (at::GradMode::is_enabled() || input->dim() != 4 || input->numel() == 0) return false;
  if (input->is_cuda()) return mrb::can_fuse_on_cuda(*input);
  if (!input->is_cpu()) return false;
  const auto type = mrb::compute_type(*input);
  return (type == at::kFloat || (type == at::kBFloat16 && mrb::has_bfloat16())) && mrb::operators().plain &&
         mrb::operators().binary;
}

bool mrb_is_ready_for_conv(const at::Tensor* input, const at::Tensor* weight) {
  return weight->device() == input->device() && weight->scalar_type() == mrb::compute_type(*input);
}

int mrb_ready_for_conv(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* weight) {
  return mrb::guarded(error, [&] {
    const auto format = weight->dim() == 4 ? input->suggest_memory_format() : at::MemoryFormat::Contiguous;
    *output = new at::Tensor(weight->detach().to(mrb::compute_type(*input)).contiguous(format));
  });
}

int mrb_fused_conv(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* weight,
                   const at::Tensor* bias, const at::Tensor* residual, int64_t stride, int64_t padding,
                   int64_t dilation, int64_t groups, bool relu) {
  return mrb::guarded(error, [&] {
    TORCH_CHECK(mrb_can_fuse_conv(input), "fused_conv: only for inference, and not for ", input->toString(), " of ",
                input->sizes());
    if (input->is_cuda()) {
      const mrb::Geometry geometry{stride, padding, dilation, groups};
      TORCH_CHECK(relu, "fused_conv: cuDNN has no such operator without a ReLU");
      *output = new at::Tensor(mrb::fused_on_cuda(*input, *weight, bias, residual, geometry));
      return;
    }
    const auto type = mrb::compute_type(*input);
    const auto pair = [](int64_t value) { return std::vector<int64_t>{value, value}; };
    const c10::List<std::optional<at::Scalar>> no_scalars;
    torch::jit::Stack stack;
    stack.emplace_back(input->to(type));
    if (residual) stack.emplace_back(residual->to(type));
    stack.emplace_back(weight->to(type));
    stack.emplace_back(mrb::cast_or_none(bias, type));
    stack.emplace_back(pair(padding));
    stack.emplace_back(pair(stride));
    stack.emplace_back(pair(dilation));
    stack.emplace_back(groups);
    if (residual) {
      stack.emplace_back(std::string("add"));
      stack.emplace_back();  // factor of the residual: 1
      stack.push_back(relu ? c10::IValue(std::string("relu")) : c10::IValue());
    } else {
      stack.emplace_back(std::string(relu ? "relu" : "none"));
    }
    stack.emplace_back(no_scalars);
    stack.emplace_back();
    const auto& found = mrb::operators();
    (residual ? found.binary : found.plain)->callBoxed(stack);
    *output = new at::Tensor(std::move(stack.front()).toTensor());
  });
}
