// One thread an element; the arithmetic of the original's SigmoidFocalLoss_cuda.cu in float32, whatever the type of the
// logits is.
#include "ops/sigmoid_focal_loss/sigmoid_focal_loss_cuda.h"

#include <cfloat>

#include "cuda/launch.cuh"

namespace mrb::cuda {
namespace {

__device__ float power(float base, float gamma) { return gamma == 2 ? base * base : powf(base, gamma); }

struct Terms {
  float p;          // sigmoid(x)
  float log_p;      // its logarithm, clamped below
  float log_not_p;  // log(1 - sigmoid(x))
};

__device__ Terms terms(float x) {
  const float p = 1.f / (1.f + expf(-x));
  return {p, logf(fmaxf(p, FLT_MIN)), -fmaxf(x, 0.f) - logf(1.f + expf(-fabsf(x)))};
}

template <typename T>
__global__ void forward_kernel(int64_t count, const T* logits, const int32_t* targets, int64_t classes, float gamma,
                               float alpha, T* loss) {
  MRB_GRID_STRIDE(i, count) {
    const int64_t target = targets[i / classes];
    const auto t = terms(to_float(logits[i]));
    float value = 0;  // of an ignored row
    if (target == i % classes + 1) {
      value = -alpha * power(1.f - t.p, gamma) * t.log_p;
    } else if (target >= 0) {
      value = -(1.f - alpha) * power(t.p, gamma) * t.log_not_p;
    }
    store(loss + i, value);
  }
}

template <typename T>
__global__ void backward_kernel(int64_t count, const T* grad_loss, const T* logits, const int32_t* targets,
                                int64_t classes, float gamma, float alpha, T* grad_logits) {
  MRB_GRID_STRIDE(i, count) {
    const int64_t target = targets[i / classes];
    const auto t = terms(to_float(logits[i]));
    float value = 0;
    if (target == i % classes + 1) {
      value = -alpha * power(1.f - t.p, gamma) * (1.f - t.p - t.p * gamma * t.log_p);
    } else if (target >= 0) {
      value = -(1.f - alpha) * power(t.p, gamma) * (t.log_not_p * (1.f - t.p) * gamma - t.p);
    }
    store(grad_logits + i, to_float(grad_loss[i]) * value);
  }
}

}  // namespace
}  // namespace mrb::cuda

cudaError_t mrb_cuda_sigmoid_focal_loss_forward(const void* logits, const int32_t* targets, int64_t rows,
                                                int64_t classes, float gamma, float alpha, mrb_scalar_type type,
                                                void* loss, cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const auto count = rows * classes;
    return mrb::cuda::launch_elements(stream, count, mrb::cuda::forward_kernel<T>, count,
                                      static_cast<const T*>(logits), targets, classes, gamma, alpha,
                                      static_cast<T*>(loss));
  });
}

cudaError_t mrb_cuda_sigmoid_focal_loss_backward(const void* grad_loss, const void* logits, const int32_t* targets,
                                                 int64_t rows, int64_t classes, float gamma, float alpha,
                                                 mrb_scalar_type type, void* grad_logits, cudaStream_t stream) {
  return mrb::cuda::dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const auto count = rows * classes;
    return mrb::cuda::launch_elements(stream, count, mrb::cuda::backward_kernel<T>, count,
                                      static_cast<const T*>(grad_loss), static_cast<const T*>(logits), targets,
                                      classes, gamma, alpha, static_cast<T*>(grad_logits));
  });
}
