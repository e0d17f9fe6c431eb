// Automatic mixed precision: libtorch's autocast for one device type and one number format.
#include <ATen/core/Tensor.h>
#include <ATen/ops/upsample_nearest2d.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "runtime/autocast.h"

int mrb_autocast_enter(mrb_error* error, mrb_autocast* before, bool cuda, bool bfloat16) {
  return mrb::guarded(error, [&] {
    const auto device = cuda ? at::kCUDA : at::kCPU;
    *before = {cuda, at::autocast::is_autocast_enabled(device),
               static_cast<int32_t>(at::autocast::get_autocast_dtype(device))};
    at::autocast::set_autocast_dtype(device, bfloat16 ? at::kBFloat16 : at::kHalf);
    at::autocast::set_autocast_enabled(device, true);
    at::autocast::increment_nesting();
  });
}

int mrb_autocast_leave(mrb_error* error, const mrb_autocast* before) {
  return mrb::guarded(error, [&] {
    // The casts of the weights are kept until here, as weights do not change meanwhile.
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
      mrb::forget_casts();
    }
    const auto device = before->cuda ? at::kCUDA : at::kCPU;
    at::autocast::set_autocast_enabled(device, before->enabled);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(before->dtype));
  });
}

int mrb_upsample_nearest(mrb_error* error, at::Tensor** output, const at::Tensor* input, int64_t height, int64_t width,
                         double scale) {
  return mrb::guarded(error, [&] {
    const c10::impl::ExcludeDispatchKeyGuard in_its_own_type(c10::autocast_dispatch_keyset);
    *output = new at::Tensor(at::upsample_nearest2d(*input, {height, width}, scale, scale));
  });
}
