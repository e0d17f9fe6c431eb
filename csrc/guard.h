// What every function of api.h does with exceptions and outputs.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

#include "api.h"

namespace mrb {

inline void set_error(mrb_error* error, const char* message) noexcept {
  std::strncpy(error->message, message, sizeof(error->message) - 1);
  error->message[sizeof(error->message) - 1] = '\0';
}

// Runs `body`; returns 0, or 1 with the exception's text in `error`.
template <typename Body>
int guarded(mrb_error* error, const Body& body) noexcept {
  try {
    body();
    return 0;
  } catch (const c10::Error& e) {
    set_error(error, e.what_without_backtrace());
  } catch (const std::exception& e) {
    set_error(error, e.what());
  } catch (...) {
    set_error(error, "unknown C++ exception");
  }
  return 1;
}

inline void check_rois(const char* op, const at::Tensor& input, const at::Tensor& rois) {
  TORCH_CHECK(input.dim() == 4 && input.size(2) > 0 && input.size(3) > 0, op,
              ": input must be [N, C, H, W] with pixels, not ", input.sizes());
  TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5, op, ": rois must be [R, 5], not ", rois.sizes());
}

}  // namespace mrb
