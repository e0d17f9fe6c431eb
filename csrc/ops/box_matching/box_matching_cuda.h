// Launch function of box_matching_cuda.cu: raw device pointers, no tensor. It returns the error of the launch.
//
//   gt                  [G, 4]  float32, G > 0
//   predictions         [N, 4]  float32
//   best_iou            [N]     float32
//   best_gt             [N]     int64
//   attains_gt_maximum  [N]     bool
//   gt_maximum          [G]     int32: working memory
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

extern "C" cudaError_t mrb_cuda_match_by_iou(const float* gt, int64_t gt_count, const float* predictions,
                                             int64_t count, float* best_iou, int64_t* best_gt,
                                             bool* attains_gt_maximum, int32_t* gt_maximum, cudaStream_t stream);
