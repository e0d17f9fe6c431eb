// Sigmoid focal loss (Lin et al., "Focal Loss for Dense Object Detection", 2017) by the formula of the original's
// kernel (SigmoidFocalLoss_cuda.cu), which is finite for every logit.
//
//   logits   [R, C]  float32 or float64; on CUDA float32, float16 or bfloat16
//   targets  [R]     negative: ignored; 0: background; t: the class of column t - 1
//   loss     [R, C]
#pragma once

#include <ATen/core/Tensor.h>

namespace mrb {

// `targets` are int32.
at::Tensor sigmoid_focal_loss_forward_cpu(const at::Tensor& logits, const at::Tensor& targets, double gamma,
                                          double alpha);
at::Tensor sigmoid_focal_loss_backward_cpu(const at::Tensor& grad_loss, const at::Tensor& logits,
                                           const at::Tensor& targets, double gamma, double alpha);

// Only in builds with CUDA.
at::Tensor sigmoid_focal_loss_forward_cuda(const at::Tensor& logits, const at::Tensor& targets, double gamma,
                                           double alpha);
at::Tensor sigmoid_focal_loss_backward_cuda(const at::Tensor& grad_loss, const at::Tensor& logits,
                                            const at::Tensor& targets, double gamma, double alpha);

}  // namespace mrb
