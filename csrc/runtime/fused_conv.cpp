// The operators that libtorch's own compiler uses for inference on the CPU: one oneDNN primitive computes the
// convolution, adds the bias and a residual and takes the positive part, so that the output is written once.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>

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
  return at::autocast::is_autocast_enabled(at::kCPU) ? at::autocast::get_autocast_dtype(at::kCPU) : input.scalar_type();
}

c10::IValue cast_or_none(const at::Tensor* tensor, at::ScalarType type) {
  return tensor ? c10::IValue(tensor->to(type)) : c10::IValue();
}

}  // namespace
}  // namespace mrb

bool mrb_can_fuse_conv(const at::Tensor* input) {
  if (at::GradMode::is_enabled() || !input->is_cpu() || input->dim() != 4 || input->numel() == 0) return false;
  const auto type = mrb::compute_type(*input);
  return (type == at::kFloat || (type == at::kBFloat16 && mrb::has_bfloat16())) && mrb::operators().plain &&
         mrb::operators().binary;
}

int mrb_fused_conv(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* weight,
                   const at::Tensor* bias, const at::Tensor* residual, int64_t stride, int64_t padding,
                   int64_t dilation, int64_t groups, bool relu) {
  return mrb::guarded(error, [&] {
    TORCH_CHECK(mrb_can_fuse_conv(input), "fused_conv: only for inference in float32 or bfloat16 on the CPU");
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
