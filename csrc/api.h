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

// `inputs` and `spatial_scales` have `map_count` entries; `levels` may be null for one map.
int mrb_roi_align(mrb_error* error, at::Tensor** output, const at::Tensor* const* inputs, const double* spatial_scales,
                  int64_t map_count, const at::Tensor* rois, const at::Tensor* levels, int64_t pooled_height,
                  int64_t pooled_width, int64_t sampling_ratio);

int mrb_roi_pool(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* rois,
                 int64_t pooled_height, int64_t pooled_width, double spatial_scale);

int mrb_nms(mrb_error* error, at::Tensor** keep, const at::Tensor* boxes, const at::Tensor* scores, double threshold,
            bool suppress_at_threshold);

// `keep` is a mask over the boxes, which suppress only others of their group; no group has more than `largest_group`.
int mrb_nms_mask(mrb_error* error, at::Tensor** keep, const at::Tensor* boxes, const at::Tensor* scores,
                 const at::Tensor* groups, int64_t group_count, int64_t largest_group, double threshold,
                 bool suppress_at_threshold);

// Boxes of all images end to end, and how many are each image's; without `prediction_counts` every image has the same
// predictions. The counts are numbers on the host.
int mrb_match_by_iou(mrb_error* error, at::Tensor** best_iou, at::Tensor** best_gt, at::Tensor** attains_gt_maximum,
                     const at::Tensor* gt, const int64_t* gt_counts, const at::Tensor* predictions,
                     const int64_t* prediction_counts, size_t images);

int mrb_sigmoid_focal_loss(mrb_error* error, at::Tensor** loss, const at::Tensor* logits, const at::Tensor* targets,
                           double gamma, double alpha);

// Overwrites `x` where it is dense; `scale` (which gets no gradient) and `residual` may be null.
int mrb_channel_affine(mrb_error* error, at::Tensor** y, const at::Tensor* x, const at::Tensor* scale,
                       const at::Tensor* shift, const at::Tensor* residual, bool relu);

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

// `upsample_nearest2d` in the input's own type, under autocast too (which would make it float32, though it only repeats
// values).
int mrb_upsample_nearest(mrb_error* error, at::Tensor** output, const at::Tensor* input, int64_t height, int64_t width,
                         double scale);

// Whether `mrb_fused_conv` takes this input: not empty, gradients off, and libtorch has the operator for its type
// (under autocast the type it is cast to): on the CPU float32, or bfloat16 where the processor computes with it; on
// CUDA, for channels-last inputs, 16 bits, and float32 where TF32 is allowed.
bool mrb_can_fuse_conv(const at::Tensor* input);
// Whether the weight (or bias) lies on the input's device in the type that the convolution of the input is computed in.
bool mrb_is_ready_for_conv(const at::Tensor* input, const at::Tensor* weight);
// The weight in that type, and a filter in the input's memory format.
int mrb_ready_for_conv(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* weight);
// Convolution plus bias plus residual, then ReLU, in one step. `bias` and `residual` may be null; `residual` has the
// output's shape. The output has the memory format of the input. Under autocast everything is cast first.
int mrb_fused_conv(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* weight,
                   const at::Tensor* bias, const at::Tensor* residual, int64_t stride, int64_t padding,
                   int64_t dilation, int64_t groups, bool relu);

// What CUDA needs beyond this program. The first two ask the driver only; 0 stands for a version that is not known.
// They fail with the reason where CUDA cannot be used: no kernels in the program, no driver, no GPU.
struct mrb_cuda_versions {
  int64_t runtime, driver;  // 1000 * major + 10 * minor
  int64_t cudnn;            // 10000 * major + 100 * minor + patch
};
struct mrb_cuda_device {
  char name[256];
  int64_t total_memory;  // bytes
  int64_t major, minor;  // compute capability
};
int mrb_cuda_devices(mrb_error* error, mrb_cuda_versions* versions, int64_t* count);
int mrb_cuda_device_at(mrb_error* error, mrb_cuda_device* device, int64_t index);
// Opens libtorch's CUDA library, which programs do not link, so that they start without it. To be called before
// anything asks libtorch whether CUDA is there: libtorch remembers the answer.
int mrb_cuda_open(mrb_error* error);

// Random numbers on the CPU, or the default generator of a CUDA device. A generator belongs to the caller
// (`mrb_generator_free`).
int mrb_generator_new(mrb_error* error, at::Generator** generator, uint64_t seed);
int mrb_generator_default(mrb_error* error, at::Generator** generator);
int mrb_generator_default_cuda(mrb_error* error, at::Generator** generator, int64_t index);
void mrb_generator_free(at::Generator* generator);
// The state is the byte tensor of torch.Generator.get_state().
int mrb_generator_state(mrb_error* error, at::Tensor** state, at::Generator* generator);
int mrb_generator_set_state(mrb_error* error, at::Generator* generator, const at::Tensor* state);
int mrb_randperm(mrb_error* error, at::Tensor** output, int64_t n, at::Generator* generator);
int mrb_rand(mrb_error* error, at::Tensor** output, int64_t n, at::Generator* generator);

// Automatic mixed precision for this thread, on CUDA or on the CPU, in bfloat16 or else float16. `before` is what
// `mrb_autocast_leave` goes back to; the two are called in pairs.
struct mrb_autocast {
  bool cuda;
  bool enabled;
  int32_t dtype;
};
int mrb_autocast_enter(mrb_error* error, mrb_autocast* before, bool cuda, bool bfloat16);
int mrb_autocast_leave(mrb_error* error, const mrb_autocast* before);
// Casts these float32 weights to autocast's type, many with one kernel, and their gradients back in the same way. The
// casts are kept until this thread's outermost autocast ends; nothing happens without autocast or without gradients.
int mrb_cast_weights(mrb_error* error, const at::Tensor* const* weights, size_t len);
// Whether operators of this thread are recorded for gradients.
bool mrb_grad_enabled();
// What `mrb_cast_weights` has kept for the weight, or the weight itself.
int mrb_cast_of(mrb_error* error, at::Tensor** output, const at::Tensor* weight);

// A tensor over float32 values that are somebody else's, without a copy. Whether it succeeds or not, `release(owner)`
// is called once, in any thread, when nobody needs the values any more.
int mrb_tensor_over(mrb_error* error, at::Tensor** output, float* values, const int64_t* sizes, size_t dimensions,
                    void (*release)(void*), void* owner);
// Along the first dimension; where the tensors are parts of one memory, in its order, without gaps and without
// gradients, the output is a view of it.
int mrb_cat_rows(mrb_error* error, at::Tensor** output, const at::Tensor* const* tensors, size_t len);

// A float32 tensor on the host in memory pinned for transfers to the CUDA device of this index, which is open.
int mrb_empty_pinned(mrb_error* error, at::Tensor** output, const int64_t* sizes, size_t dimensions, int64_t index);
// A tensor of the CPU, copied to a CUDA device over pinned memory: nothing waits until it is there.
int mrb_upload(mrb_error* error, at::Tensor** output, const at::Tensor* tensor, int64_t index);
// Copies each source into its target, which has its shape: one kernel for many small tensors.
int mrb_copy_all(mrb_error* error, const at::Tensor* const* targets, const at::Tensor* const* sources, size_t len);

// Forgets the gradients of these parameters.
int mrb_clear_gradients(mrb_error* error, const at::Tensor* const* parameters, size_t len);
// Multiplies the gradients by `inverse_scale` in place. `found_non_finite` [1], float32, on their device, is 1 where
// one of them holds an infinity or nan, else 0.
int mrb_unscale_gradients(mrb_error* error, at::Tensor** found_non_finite, const at::Tensor* const* parameters,
                          size_t len, double inverse_scale);

// One parameter with a gradient. `momentum_buffer` is null without momentum; with `first` it is filled, otherwise
// moved.
struct mrb_sgd_parameter {
  const at::Tensor* parameter;
  const at::Tensor* momentum_buffer;
  double lr;
  double weight_decay;
  bool first;
};
// One step of torch.optim.SGD (no dampening, no Nesterov), in place.
int mrb_sgd_step(mrb_error* error, const mrb_sgd_parameter* parameters, size_t len, double momentum);

// Deterministic algorithms wherever libtorch has them (`torch.use_deterministic_algorithms`, warnings elsewhere).
int mrb_set_deterministic(mrb_error* error, bool deterministic);
bool mrb_is_deterministic();
// Whether matrix products and convolutions of float32 on CUDA may round their factors to TF32.
int mrb_set_tf32(mrb_error* error, bool allowed);
// The CUDA device that tensors without a number go to (`torch.cuda.set_device`). Needs CUDA, as the next one does.
int mrb_cuda_set_device(mrb_error* error, int64_t index);
// The most that tensors on the device have taken so far (`torch.cuda.max_memory_allocated`).
int mrb_cuda_peak_memory(mrb_error* error, int64_t* bytes, int64_t index);

// Counts from 0 how often this thread (and the backward passes that it starts) waits for the GPU, or stops counting.
// Needs a build with CUDA.
int mrb_count_syncs(mrb_error* error, bool on);
int64_t mrb_syncs_counted();

// Counts from 0 the operators that libtorch runs in all threads, or stops counting (no other thread may run one during
// this call); what has been counted so far.
int mrb_count_operators(mrb_error* error, bool on);
int mrb_operators_counted(mrb_error* error, void* sink, void (*take)(void* sink, const char* name, int64_t count));

// ---- distributed: c10d ----

// A store belongs to the caller (`mrb_store_free`), and so do groups and reducers. A group keeps its store, a reducer
// its group.
struct mrb_store;
struct mrb_process_group;
struct mrb_reducer;

// Connects to the store at host:port, which the process with `is_server` hosts; it may give port 0 for any free one.
int mrb_store_new(mrb_error* error, mrb_store** store, uint16_t* bound_port, const char* host, uint16_t port,
                  bool is_server, int64_t timeout_ms);
int mrb_store_with_prefix(mrb_error* error, mrb_store** prefixed, const mrb_store* store, const char* prefix);
void mrb_store_free(mrb_store* store);
int mrb_store_set(mrb_error* error, const mrb_store* store, const char* key, const uint8_t* value, size_t len);
// The bytes of a key as a uint8 tensor; waits until the key is there.
int mrb_store_get(mrb_error* error, at::Tensor** value, const mrb_store* store, const char* key);
int mrb_store_add(mrb_error* error, int64_t* sum, const mrb_store* store, const char* key, int64_t amount);
int mrb_store_check(mrb_error* error, bool* is_there, const mrb_store* store, const char* key);

// All processes of a group call the functions below in the same order.
int mrb_process_group_gloo(mrb_error* error, mrb_process_group** group, const mrb_store* store, int64_t rank,
                           int64_t world_size, int64_t timeout_ms);
// Lets the group handle CUDA tensors, over NCCL; after `mrb_cuda_open`, and once the process has chosen its device.
int mrb_process_group_add_nccl(mrb_error* error, const mrb_process_group* group, const mrb_store* store, int64_t rank,
                               int64_t world_size, int64_t timeout_ms);
// At the end of a job that has succeeded, in all processes: ends NCCL's threads and communicators. A group that is
// freed without it (after an error, when others may be lost) drops them without waiting.
int mrb_process_group_shutdown(mrb_error* error, const mrb_process_group* group);
void mrb_process_group_free(mrb_process_group* group);
int mrb_barrier(mrb_error* error, const mrb_process_group* group);
// In place.
int mrb_all_reduce_sum(mrb_error* error, const mrb_process_group* group, const at::Tensor* tensor);
// `output` holds world size times as many elements as `input`; both have one dimension.
int mrb_all_gather(mrb_error* error, const mrb_process_group* group, const at::Tensor* output,
                   const at::Tensor* input);
// Rank 0's `output` is [world size, ...shape of input]; the others' is null.
int mrb_gather(mrb_error* error, const mrb_process_group* group, const at::Tensor* output, const at::Tensor* input);
// Makes the tensors of all processes those of rank 0, in place.
int mrb_broadcast(mrb_error* error, const mrb_process_group* group, const at::Tensor* const* tensors, size_t len);

// `on_computed` is called in each backward pass when the last gradient of this process is there.
int mrb_reducer_new(mrb_error* error, mrb_reducer** reducer, const mrb_process_group* group,
                    const at::Tensor* const* parameters, const char* const* names, size_t len,
                    void (*on_computed)(void));
int mrb_reducer_free(mrb_error* error, mrb_reducer* reducer);
// Before and after a forward pass whose gradients are to be averaged, and after its backward pass.
int mrb_reducer_prepare_for_forward(mrb_error* error, mrb_reducer* reducer);
int mrb_reducer_prepare_for_backward(mrb_error* error, mrb_reducer* reducer);
int mrb_reducer_check_finalized(mrb_error* error, mrb_reducer* reducer);

// Calls `report` with the text of an exception that a C++ thread throws and nobody catches, in that thread, before the
// process is aborted.
void mrb_on_uncaught_exception(void (*report)(const char*));

}  // extern "C"
