#include "guard.h"

int mrb_contiguous(mrb_error* error, at::Tensor** output, const at::Tensor* tensor, bool channels_last) {
  return mrb::guarded(error, [&] {
    const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    *output = new at::Tensor(tensor->contiguous(format));
  });
}

bool mrb_is_channels_last(const at::Tensor* tensor) {
  return tensor->suggest_memory_format() == at::MemoryFormat::ChannelsLast;
}
