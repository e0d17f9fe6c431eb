#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "cuda/tensor.h"
#include "ops/nms/nms.h"
#include "ops/nms/nms_cuda.h"

namespace mrb {

at::Tensor nms_mask_cuda(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups,
                         int64_t group_count, double threshold, bool suppress_at_threshold) {
  const cuda::Guard guard(boxes.device());
  const auto count = boxes.size(0);
  auto keep = at::zeros({count}, boxes.options().dtype(at::kBool));
  if (count == 0) return keep;
  TORCH_CHECK(count <= mrb_cuda_nms_most_boxes, "nms: at most ", mrb_cuda_nms_most_boxes,
              " boxes at once on CUDA, not ", count);
  const auto order = nms_order(scores, groups);
  const auto sorted = boxes.to(at::kFloat).index_select(0, order);
  const auto sorted_groups = groups.defined() ? groups.index_select(0, order) : at::Tensor();
  const auto* group_data = groups.defined() ? sorted_groups.const_data_ptr<int64_t>() : nullptr;
  const auto mask = at::empty({count, (count + 63) / 64}, boxes.options().dtype(at::kLong));
  auto* mask_data = reinterpret_cast<uint64_t*>(mask.mutable_data_ptr<int64_t>());
  const auto stream = cuda::current_stream();
  cuda::check("nms", mrb_cuda_nms_mask(sorted.const_data_ptr<float>(), group_data, mask_data, count,
                                       static_cast<float>(threshold), suppress_at_threshold, stream));
  cuda::check("nms", mrb_cuda_nms_select(mask_data, group_data, order.const_data_ptr<int64_t>(),
                                         keep.mutable_data_ptr<bool>(), count, group_count, stream));
  return keep;
}

}  // namespace mrb
