// Rows of several tensors end to end, without a copy where they lie so already.
#include <ATen/ops/cat.h>
#include <c10/util/strides.h>

#include <vector>

#include "guard.h"

namespace {

// The first tensor with rows, if all of them are parts of one memory, in its order and without gaps. What gradients go
// through is not looked at, as they would take another way back.
const at::Tensor* first_of_one_piece(const at::Tensor* const* tensors, size_t len) {
  const at::Tensor* first = nullptr;
  int64_t next = 0;
  for (size_t i = 0; i < len; ++i) {
    const auto& tensor = *tensors[i];
    if (tensor.dim() == 0 || tensor.requires_grad() || !tensor.is_contiguous()) return nullptr;
    if (tensor.scalar_type() != tensors[0]->scalar_type() || tensor.device() != tensors[0]->device()) return nullptr;
    if (tensor.sizes().slice(1) != tensors[0]->sizes().slice(1)) return nullptr;
    if (tensor.numel() == 0) continue;
    if (first == nullptr) {
      first = &tensor;
    } else if (!tensor.is_alias_of(*first) || tensor.storage_offset() != next) {
      return nullptr;
    }
    next = tensor.storage_offset() + tensor.numel();
  }
  return first;
}

}  // namespace

int mrb_cat_rows(mrb_error* error, at::Tensor** output, const at::Tensor* const* tensors, size_t len) {
  return mrb::guarded(error, [&] {
    if (const auto* first = first_of_one_piece(tensors, len)) {
      auto sizes = first->sizes().vec();
      sizes[0] = 0;
      for (size_t i = 0; i < len; ++i) sizes[0] += tensors[i]->size(0);
      // Not those of `first`, which may be anything along a dimension of size 1.
      const auto strides = c10::contiguous_strides(sizes);
      *output = new at::Tensor(first->as_strided(sizes, strides, first->storage_offset()));
      return;
    }
    std::vector<at::Tensor> parts;
    for (size_t i = 0; i < len; ++i) parts.push_back(*tensors[i]);
    *output = new at::Tensor(at::cat(parts));
  });
}
