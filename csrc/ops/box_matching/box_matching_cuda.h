// Launch function of box_matching_cuda.cu: raw device pointers, no tensor; the counts of the images are on the host. It
// returns the error of the first launch that fails.
//
//   gt                  [G, 4]  float32: those of the first image first
//   gt_counts           [I]     how many are each image's
//   predictions         [N, 4]  float32: likewise; or, where they are `shared`, the same for every image
//   counts              [I]     how many predictions each image has
//   best_iou            [R]     float32, R being the sum of `counts`
//   best_gt             [R]     int64, counted within the image
//   attains_gt_maximum  [R]     bool
//   gt_maximum          [G]     int32: working memory
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

extern "C" cudaError_t mrb_cuda_match_by_iou(const float* gt, const int64_t* gt_counts, const float* predictions,
                                             const int64_t* counts, bool shared, int64_t images, float* best_iou,
                                             int64_t* best_gt, bool* attains_gt_maximum, int32_t* gt_maximum,
                                             cudaStream_t stream);
