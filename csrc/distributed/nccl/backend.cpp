// NCCL as the backend of a group's CUDA tensors. A shared library of its own, opened after libtorch_cuda by
// csrc/distributed/nccl.cpp: ProcessGroupNCCL is a part of libtorch_cuda, which programs do not link.
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <chrono>

#include "distributed/handles.h"
#include "guard.h"

extern "C" __attribute__((visibility("default"))) int mrb_nccl_attach(mrb_error* error, const mrb_process_group* group,
                                                                      const mrb_store* store, int64_t rank,
                                                                      int64_t world_size, int64_t timeout_ms) {
  return mrb::guarded(error, [&] {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    auto own_store = c10::make_intrusive<c10d::PrefixStore>("nccl", store->store);
    group->group->setBackend(
        c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL,
        c10::make_intrusive<c10d::ProcessGroupNCCL>(std::move(own_store), static_cast<int>(rank),
                                                    static_cast<int>(world_size), std::move(options)));
  });
}
