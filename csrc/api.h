// The C interface between Rust (src/ffi) and C++: every function here has its `extern "C"` twin in src/ffi/raw.rs.
//
// Functions return 0, or 1 after having written what went wrong into `error`; no exception leaves them. Tensors that
// come in are borrowed, and null stands for an absent one where the comment says so; tensors that go out through a
// `Tensor**` belong to the caller (`delete`, which is what dropping a tch::Tensor does). Nothing is written to the
// outputs when a function fails.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
struct Generator;
}  // namespace at

extern "C" {

// The message is cut to what fits and always ends in 0.
struct mrb_error {
  char message[4096];
};

// ---- ops: shapes and meaning are in the header of each operator's folder ----

int mrb_roi_align(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* rois,
                  int64_t pooled_height, int64_t pooled_width, double spatial_scale, int64_t sampling_ratio);

int mrb_roi_pool(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* rois,
                 int64_t pooled_height, int64_t pooled_width, double spatial_scale);

int mrb_nms(mrb_error* error, at::Tensor** keep, const at::Tensor* boxes, const at::Tensor* scores, double threshold,
            bool suppress_at_threshold);

int mrb_match_by_iou(mrb_error* error, at::Tensor** best_iou, at::Tensor** best_gt, at::Tensor** attains_gt_maximum,
                     const at::Tensor* gt, const at::Tensor* predictions);

int mrb_sigmoid_focal_loss(mrb_error* error, at::Tensor** loss, const at::Tensor* logits, const at::Tensor* targets,
                           double gamma, double alpha);

struct mrb_deform_conv_geometry {
  int64_t stride_h, stride_w;
  int64_t pad_h, pad_w;
  int64_t dilation_h, dilation_w;
  int64_t groups, deformable_groups;
};

// `mask` is null for version 1.
int mrb_deform_conv(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* offset,
                    const at::Tensor* mask, const at::Tensor* weight, const mrb_deform_conv_geometry* geometry);

struct mrb_deform_roi_pool_geometry {
  double spatial_scale;
  int64_t pooled_size;
  int64_t output_dim;
  int64_t group_size;
  int64_t part_size;
  int64_t samples_per_part;
  double trans_std;
};

// `trans` is null for pooling without offsets.
int mrb_deform_roi_pool(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* rois,
                        const at::Tensor* trans, const mrb_deform_roi_pool_geometry* geometry);

// ---- runtime: what tch lacks ----

// The tensor in NCHW or channels-last memory format (the tensor itself where it is so already).
int mrb_contiguous(mrb_error* error, at::Tensor** output, const at::Tensor* tensor, bool channels_last);
// Whether the tensor would be kept in channels-last format by an operator that preserves the format.
bool mrb_is_channels_last(const at::Tensor* tensor);

// Whether `mrb_fused_conv` takes this input: float32 on the CPU, not empty, gradients off, and libtorch has the operator.
bool mrb_can_fuse_conv(const at::Tensor* input);
// Convolution plus bias plus residual, then ReLU, in one step. `bias` and `residual` may be null; `residual` has the
// output's shape. The output has the memory format of the input.
int mrb_fused_conv(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* weight,
                   const at::Tensor* bias, const at::Tensor* residual, int64_t stride, int64_t padding,
                   int64_t dilation, int64_t groups, bool relu);

// Random numbers on the CPU. A generator belongs to the caller (`mrb_generator_free`).
int mrb_generator_new(mrb_error* error, at::Generator** generator, uint64_t seed);
int mrb_generator_default(mrb_error* error, at::Generator** generator);
void mrb_generator_free(at::Generator* generator);
// The state is the byte tensor of torch.Generator.get_state().
int mrb_generator_state(mrb_error* error, at::Tensor** state, at::Generator* generator);
int mrb_generator_set_state(mrb_error* error, at::Generator* generator, const at::Tensor* state);
int mrb_randperm(mrb_error* error, at::Tensor** output, int64_t n, at::Generator* generator);
int mrb_rand(mrb_error* error, at::Tensor** output, int64_t n, at::Generator* generator);

}  // extern "C"
