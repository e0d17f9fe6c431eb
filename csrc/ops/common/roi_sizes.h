// The sizes with which RoIAlign and RoIPool launch their CUDA kernels.
#pragma once

#include <cstdint>

struct mrb_cuda_roi_sizes {
  int64_t rois;
  int64_t images, channels, height, width;  // of the map: the input or its gradient
  // Of the map, in elements, so that NCHW and channels-last maps are both taken as they are.
  int64_t stride_n, stride_c, stride_h, stride_w;
  int64_t pooled_height, pooled_width;
  float spatial_scale;
  bool channels_last;  // the memory format of what is pooled; otherwise it is NCHW
};
