// The C interface between Rust (src/ffi) and C++: every function here has its `extern "C"` twin in src/ffi/raw.rs.
//
// Functions return 0, or 1 after having written what went wrong into `error`; no exception leaves them. Tensors that
// come in are borrowed; tensors that go out through a `Tensor**` belong to the caller (`delete`, which is what
// dropping a tch::Tensor does). Nothing is written to the outputs when a function fails.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

extern "C" {

// The message is cut to what fits and always ends in 0.
struct mrb_error {
  char message[4096];
};

// ---- ops: shapes and meaning are in the header of each operator's folder ----

int mrb_roi_align(mrb_error* error, at::Tensor** output, const at::Tensor* input, const at::Tensor* rois,
                  int64_t pooled_height, int64_t pooled_width, double spatial_scale, int64_t sampling_ratio);

int mrb_nms(mrb_error* error, at::Tensor** keep, const at::Tensor* boxes, const at::Tensor* scores, double threshold,
            bool suppress_at_threshold);

}  // extern "C"
