#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "cuda/tensor.h"
#include "ops/nms/nms.h"
#include "ops/nms/nms_cuda.h"

namespace mrb {

at::Tensor nms_mask_cuda(const at::Tensor& boxes, const at::Tensor& scores, const NmsGroups& groups, double threshold,
                         bool suppress_at_threshold) {
  const cuda::Guard guard(boxes.device());
  const auto count = boxes.size(0);
  auto keep = at::zeros({count}, boxes.options().dtype(at::kBool));
  if (count == 0) return keep;
  const auto largest = std::min(groups.largest, count);
  TORCH_CHECK(largest <= mrb_cuda_nms_most_boxes, "nms: at most ", mrb_cuda_nms_most_boxes,
              " boxes of a group on CUDA, not ", largest);
  const auto order = nms_order(scores, groups.of_box);
  const auto sorted = boxes.to(at::kFloat).index_select(0, order);
  const auto sorted_groups = groups.of_box.defined() ? groups.of_box.index_select(0, order) : at::Tensor();
  const auto* group_data = sorted_groups.defined() ? sorted_groups.const_data_ptr<int64_t>() : nullptr;
  const auto mask = at::empty({count, mrb_cuda_nms_words(largest)}, boxes.options().dtype(at::kLong));
  auto* mask_data = reinterpret_cast<uint64_t*>(mask.mutable_data_ptr<int64_t>());
  const auto stream = cuda::current_stream();
  cuda::check("nms", mrb_cuda_nms_mask(sorted.const_data_ptr<float>(), group_data, mask_data, count, largest,
                                       static_cast<float>(threshold), suppress_at_threshold, stream));
  cuda::check("nms", mrb_cuda_nms_select(mask_data, group_data, order.const_data_ptr<int64_t>(),
                                         keep.mutable_data_ptr<bool>(), count, largest, groups.count, stream));
  return keep;
}

}  // namespace mrb
