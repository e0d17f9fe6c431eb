// What the kernels of RoIAlign and RoIPool share.
#pragma once

#include "cuda/launch.cuh"
#include "ops/common/roi_sizes.h"

namespace mrb::cuda {

// What an output element belongs to.
struct Place {
  int64_t roi, channel;
  int ph, pw;
};

template <typename Index>
__device__ inline Place split(Index index, const mrb_cuda_roi_sizes& s) {
  const auto channels = static_cast<Index>(s.channels);
  const auto height = static_cast<Index>(s.pooled_height), width = static_cast<Index>(s.pooled_width);
  Place p;
  if (s.channels_last) {
    p.channel = index % channels;
    index /= channels;
  }
  p.pw = static_cast<int>(index % width);
  index /= width;
  p.ph = static_cast<int>(index % height);
  index /= height;
  if (!s.channels_last) {
    p.channel = index % channels;
    index /= channels;
  }
  p.roi = index;
  return p;
}

inline __host__ __device__ int64_t pooled_elements(const mrb_cuda_roi_sizes& s) {
  return s.rois * s.channels * s.pooled_height * s.pooled_width;
}

// Divisions of 64 bits take longer than the samples of a bin, and hardly any batch needs them.
__device__ inline Place place(int64_t index, const mrb_cuda_roi_sizes& s) {
  return pooled_elements(s) <= UINT32_MAX ? split(static_cast<uint32_t>(index), s) : split(index, s);
}

__device__ inline int64_t output_offset(int64_t roi, int64_t channel, int ph, int pw, const mrb_cuda_roi_sizes& s) {
  return s.channels_last ? ((roi * s.pooled_height + ph) * s.pooled_width + pw) * s.channels + channel
                         : ((roi * s.channels + channel) * s.pooled_height + ph) * s.pooled_width + pw;
}

// Whether a RoI is finite, not absurdly large, and of an image of the batch; another gives nan and no gradient.
__device__ inline bool is_valid_roi(const float* roi, const mrb_cuda_roi_sizes& s) {
  constexpr float limit = 1 << 22;
  bool valid = roi[0] >= 0.f && roi[0] < static_cast<float>(s.images);
  for (int i = 1; i < 5; ++i) valid = valid && fabsf(roi[i] * s.spatial_scale) < limit;
  return valid;
}

// Whether a RoI is of this image; what is_valid_roi refuses may be of any.
__device__ inline bool is_of_image(const float* roi, int64_t image) {
  const auto first = static_cast<float>(image);
  return roi[0] >= first && roi[0] < first + 1.f;
}

}  // namespace mrb::cuda
