// For each image two passes over blocks of predictions, each against every ground-truth box: the first finds both kinds
// of maximum, the second computes the overlaps again to see who attains the ground truth's.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <limits>
#include <mutex>
#include <vector>

#include "ops/box_matching/box_matching.h"
#include "ops/common/simd.h"

namespace mrb {
namespace {

constexpr int64_t block = 1024;

struct Corners {
  std::vector<float> x1, y1, x2, y2, area;

  Corners(const float* boxes, int64_t count) : x1(count), y1(count), x2(count), y2(count), area(count) {
    for (int64_t i = 0; i < count; ++i) {
      x1[i] = boxes[i * 4];
      y1[i] = boxes[i * 4 + 1];
      x2[i] = boxes[i * 4 + 2];
      y2[i] = boxes[i * 4 + 3];
      area[i] = (x2[i] - x1[i] + 1) * (y2[i] - y1[i] + 1);
    }
  }
};

struct Box {
  float x1, y1, x2, y2, area;
};

Box box_at(const Corners& boxes, int64_t i) {
  return {boxes.x1[i], boxes.y1[i], boxes.x2[i], boxes.y2[i], boxes.area[i]};
}

// The order of operations of boxlist_iou, which must not be fused: ties depend on it. A nan coordinate makes its area
// nan, and so the overlap.
__attribute__((always_inline)) inline float iou(const Box& gt, float x1, float y1, float x2, float y2, float area) {
  const float left = gt.x1 > x1 ? gt.x1 : x1, top = gt.y1 > y1 ? gt.y1 : y1;
  const float right = gt.x2 < x2 ? gt.x2 : x2, bottom = gt.y2 < y2 ? gt.y2 : y2;
  float w = right - left + 1, h = bottom - top + 1;
  w = w < 0 ? 0 : w;
  h = h < 0 ? 0 : h;
  const float inter = w * h;
  return inter / (gt.area + area - inter);
}

MRB_SIMD_EXACT void overlaps(const Box& gt, const float* x1, const float* y1, const float* x2, const float* y2,
                             const float* area, int64_t count, float* __restrict__ result) {
  for (int64_t i = 0; i < count; ++i) result[i] = iou(gt, x1[i], y1[i], x2[i], y2[i], area[i]);
}

// As torch's max: the first of equals, and nan above everything.
MRB_SIMD_EXACT void keep_best(const float* values, int32_t index, int64_t count, float* __restrict__ best,
                              int32_t* __restrict__ best_index) {
  for (int64_t i = 0; i < count; ++i) {
    const bool better = !(values[i] <= best[i]) && best[i] == best[i];
    best[i] = better ? values[i] : best[i];
    best_index[i] = better ? index : best_index[i];
  }
}

// Integers in the order of the floats, nan above everything: their maximum can be taken in any order.
MRB_SIMD_EXACT int32_t greatest_key(const float* values, int64_t count) {
  int32_t greatest = INT_MIN;
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits;
    std::memcpy(&bits, &values[i], sizeof bits);
    int32_t key = bits ^ ((bits >> 31) & INT_MAX);
    key = values[i] == values[i] ? key : INT_MAX;
    greatest = key > greatest ? key : greatest;
  }
  return greatest;
}

float value_of_key(int32_t key) {
  const int32_t bits = key ^ ((key >> 31) & INT_MAX);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;  // INT_MAX is a nan
}

MRB_SIMD_EXACT void mark_equal(const float* values, float wanted, int64_t count, int32_t* __restrict__ marks) {
  for (int64_t i = 0; i < count; ++i) marks[i] |= values[i] == wanted ? 1 : 0;
}

void match_image(const float* gt, int64_t gt_count, const float* boxes, int64_t total, float* best_iou,
                 int64_t* best_gt, bool* attains) {
  if (gt_count == 0) {
    std::fill(best_iou, best_iou + total, -std::numeric_limits<float>::infinity());
    std::fill(best_gt, best_gt + total, 0);
    std::fill(attains, attains + total, false);
    return;
  }
  const Corners targets(gt, gt_count);
  const auto blocks = (total + block - 1) / block;

  std::vector<int32_t> gt_maximum(gt_count, INT_MIN);
  std::mutex lock;
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> own_maximum(gt_count, INT_MIN);
    std::vector<float> values(block);
    std::vector<int32_t> index(block);
    for (auto b = begin; b < end; ++b) {
      const auto first = b * block, count = std::min(block, total - first);
      const Corners part(boxes + first * 4, count);
      float* best = best_iou + first;
      for (int64_t g = 0; g < gt_count; ++g) {
        overlaps(box_at(targets, g), part.x1.data(), part.y1.data(), part.x2.data(), part.y2.data(), part.area.data(),
                 count, values.data());
        own_maximum[g] = std::max(own_maximum[g], greatest_key(values.data(), count));
        if (g == 0) {
          std::copy(values.begin(), values.begin() + count, best);
          std::fill(index.begin(), index.end(), 0);
        } else {
          keep_best(values.data(), static_cast<int32_t>(g), count, best, index.data());
        }
      }
      std::copy(index.begin(), index.begin() + count, best_gt + first);
    }
    const std::lock_guard<std::mutex> guard(lock);
    for (int64_t g = 0; g < gt_count; ++g) gt_maximum[g] = std::max(gt_maximum[g], own_maximum[g]);
  });

  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> values(block);
    std::vector<int32_t> marks(block);
    for (auto b = begin; b < end; ++b) {
      const auto first = b * block, count = std::min(block, total - first);
      const Corners part(boxes + first * 4, count);
      std::fill(marks.begin(), marks.end(), 0);
      for (int64_t g = 0; g < gt_count; ++g) {
        overlaps(box_at(targets, g), part.x1.data(), part.y1.data(), part.x2.data(), part.y2.data(), part.area.data(),
                 count, values.data());
        mark_equal(values.data(), value_of_key(gt_maximum[g]), count, marks.data());
      }
      std::copy(marks.begin(), marks.begin() + count, attains + first);
    }
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> match_by_iou_cpu(const at::Tensor& gt, const at::Tensor& predictions,
                                                                const BatchCounts& counts) {
  const auto rows = counts.rows();
  auto best_iou = at::empty({rows}, predictions.options());
  auto best_gt = at::empty({rows}, predictions.options().dtype(at::kLong));
  auto attains = at::empty({rows}, predictions.options().dtype(at::kBool));
  const float* truth = gt.const_data_ptr<float>();
  const float* boxes = predictions.const_data_ptr<float>();
  int64_t row = 0;
  for (size_t image = 0; image < counts.gt.size(); ++image) {
    const auto gt_count = counts.gt[image], count = counts.predictions[image];
    match_image(truth, gt_count, boxes, count, best_iou.mutable_data_ptr<float>() + row,
                best_gt.mutable_data_ptr<int64_t>() + row, attains.mutable_data_ptr<bool>() + row);
    truth += gt_count * 4;
    if (!counts.shared) boxes += count * 4;
    row += count;
  }
  return {best_iou, best_gt, attains};
}

}  // namespace mrb
