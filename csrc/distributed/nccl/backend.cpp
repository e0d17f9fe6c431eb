// NCCL as the backend of a group's CUDA tensors. A shared library of its own, opened after libtorch_cuda by
// csrc/distributed/nccl.cpp: ProcessGroupNCCL is a part of libtorch_cuda, which programs do not link.
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <c10/util/Logging.h>

#include <chrono>
#include <cstdlib>

#include "distributed/handles.h"
#include "guard.h"

extern "C" __attribute__((visibility("default"))) int mrb_nccl_attach(mrb_error* error, const mrb_process_group* group,
                                                                      const mrb_store* store, int64_t rank,
                                                                      int64_t world_size, int64_t timeout_ms) {
  return mrb::guarded(error, [&] {
    // store.cpp hides c10d's log, because errors come as exceptions. Those of NCCL come in c10d's own threads.
    if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = c10::GLOG_ERROR;
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    auto own_store = c10::make_intrusive<c10d::PrefixStore>("nccl", store->store);
    group->group->setBackend(
        c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL,
        c10::make_intrusive<c10d::ProcessGroupNCCL>(std::move(own_store), static_cast<int>(rank),
                                                    static_cast<int>(world_size), std::move(options)));
  });
}
