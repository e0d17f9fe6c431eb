// How often the program waits for the GPU: libtorch's own check of synchronizing operations, counted instead of shown.
#include "guard.h"

#ifdef MRB_WITH_CUDA

#include <c10/cuda/CUDAFunctions.h>

#include <atomic>
#include <string>

namespace {

std::atomic<int64_t> counted{0};

struct Counter : c10::WarningHandler {
  void process(const c10::Warning& warning) override {
    if (warning.msg().find("called a synchronizing CUDA operation") != std::string::npos) {
      ++counted;
    } else {
      c10::WarningHandler::process(warning);
    }
  }
};

}  // namespace

int mrb_count_syncs(mrb_error* error, bool on) {
  return mrb::guarded(error, [&] {
    static Counter counter;
    c10::WarningUtils::set_warning_handler(on ? &counter : nullptr);
    c10::cuda::warning_state().set_sync_debug_mode(on ? c10::cuda::SyncDebugMode::L_WARN
                                                      : c10::cuda::SyncDebugMode::L_DISABLED);
    if (on) counted = 0;
  });
}

int64_t mrb_syncs_counted() { return counted; }

#else

int mrb_count_syncs(mrb_error* error, bool) {
  return mrb::guarded(error, [] { TORCH_CHECK(false, "waiting for a GPU can only be counted in a build with CUDA"); });
}

int64_t mrb_syncs_counted() { return 0; }

#endif
