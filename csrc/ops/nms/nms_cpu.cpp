// Boxes are taken in blocks of falling score. A block is first tested, in parallel, against everything kept before it;
// its survivors then suppress each other in order. The memory is that of the boxes; no matrix of overlaps is built.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "ops/common/simd.h"
#include "ops/nms/nms.h"

namespace mrb {
namespace {

// Corners and areas in one array each.
template <typename T>
struct Boxes {
  std::vector<T> x1, y1, x2, y2, area;

  void push(const T* box) {
    x1.push_back(box[0]);
    y1.push_back(box[1]);
    x2.push_back(box[2]);
    y2.push_back(box[3]);
    area.push_back((box[2] - box[0] + 1) * (box[3] - box[1] + 1));
  }
  int64_t size() const { return static_cast<int64_t>(x1.size()); }
};

// Whether one of the boxes first .. last overlaps `box` enough. The order of operations is the original's
// (nms_cpu.cpp), and must not be fused: results at the threshold depend on it.
#define MRB_DEFINE(T, Flag)                                                                                         \
  MRB_SIMD_EXACT bool any_overlap(const T* x1, const T* y1, const T* x2, const T* y2, const T* area, int64_t count, \
                                  const T* box, T box_area, T threshold, bool at_threshold) {                       \
    Flag hit = 0;                                                                                                   \
    const T bx1 = box[0], by1 = box[1], bx2 = box[2], by2 = box[3];                                                 \
    for (int64_t k = 0; k < count; ++k) {                                                                           \
      const T left = x1[k] > bx1 ? x1[k] : bx1, top = y1[k] > by1 ? y1[k] : by1;                                    \
      const T right = x2[k] < bx2 ? x2[k] : bx2, bottom = y2[k] < by2 ? y2[k] : by2;                                \
      T w = right - left + 1, h = bottom - top + 1;                                                                 \
      w = w > 0 ? w : 0;                                                                                            \
      h = h > 0 ? h : 0;                                                                                            \
      const T inter = w * h;                                                                                        \
      const T iou = inter / (area[k] + box_area - inter);                                                           \
      hit |= (iou > threshold ? 1 : 0) | (at_threshold && iou == threshold ? 1 : 0);                                \
    }                                                                                                               \
    return hit != 0;                                                                                                \
  }

MRB_DEFINE(float, int32_t)
MRB_DEFINE(double, int64_t)
#undef MRB_DEFINE

template <typename T>
bool suppressed(const Boxes<T>& kept, int64_t first, const T* box, T threshold, bool at_threshold) {
  constexpr int64_t chunk = 128;  // so that a hit among the best boxes ends the search
  const T box_area = (box[2] - box[0] + 1) * (box[3] - box[1] + 1);
  for (auto k = first; k < kept.size(); k += chunk) {
    const auto count = std::min(chunk, kept.size() - k);
    if (any_overlap(&kept.x1[k], &kept.y1[k], &kept.x2[k], &kept.y2[k], &kept.area[k], count, box, box_area, threshold,
                    at_threshold)) {
      return true;
    }
  }
  return false;
}

// Marks the survivors among the boxes `ranked`, which are in falling order of score.
template <typename T>
void mark_kept(const T* data, const int64_t* ranked, int64_t total, T threshold, bool at_threshold, bool* keep) {
  // Few blocks, since threads wait for each other at the end of each; one for a small number of boxes.
  const auto block = std::max<int64_t>(2048, (total + 7) / 8);
  Boxes<T> kept;
  std::vector<uint8_t> dead(block);
  for (int64_t start = 0; start < total; start += block) {
    const auto count = std::min(block, total - start);
    const auto before = kept.size();
    if (before > 0) {
      at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
        for (auto i = begin; i < end; ++i) {
          dead[i] = suppressed(kept, 0, data + ranked[start + i] * 4, threshold, at_threshold);
        }
      });
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto index = ranked[start + i];
      if (dead[i] || suppressed(kept, before, data + index * 4, threshold, at_threshold)) continue;
      kept.push(data + index * 4);
      keep[index] = true;
    }
  }
}

}  // namespace

at::Tensor nms_mask_cpu(const at::Tensor& boxes, const at::Tensor& scores, const NmsGroups& groups, double threshold,
                        bool suppress_at_threshold) {
  const auto total = boxes.size(0);
  const auto order = nms_order(scores, groups.of_box), corners = boxes.contiguous();
  const int64_t* ranked = order.const_data_ptr<int64_t>();
  std::vector<int64_t> ends{total};
  if (groups.of_box.defined()) {
    // Groups lie side by side in `order`.
    const auto group = groups.of_box.contiguous();
    const int64_t* group_data = group.const_data_ptr<int64_t>();
    ends.assign(groups.count, 0);
    for (int64_t i = 0; i < total; ++i) {
      TORCH_CHECK(group_data[i] >= 0 && group_data[i] < groups.count, "nms: group ", group_data[i], " of ",
                  groups.count);
      ++ends[group_data[i]];
    }
    for (const auto size : ends) {
      TORCH_CHECK(size <= groups.largest, "nms: a group of ", size, " boxes, where at most ", groups.largest,
                  " were announced");
    }
    std::partial_sum(ends.begin(), ends.end(), ends.begin());
  }
  auto keep = at::empty({total}, boxes.options().dtype(at::kBool)).zero_();
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "nms", [&] {
    int64_t start = 0;
    for (const auto end : ends) {
      // The original's threshold is a float, whatever the boxes are.
      mark_kept<scalar_t>(corners.const_data_ptr<scalar_t>(), ranked + start, end - start,
                          static_cast<float>(threshold), suppress_at_threshold, keep.mutable_data_ptr<bool>());
      start = end;
    }
  });
  return keep;
}

}  // namespace mrb
