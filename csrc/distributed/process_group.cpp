// Collective operations: c10d::ProcessGroup over its Gloo backend, which is compiled into libtorch_cpu.
#define USE_C10D_GLOO
#include <ATen/core/grad_mode.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>

#include <chrono>
#include <vector>

#include "distributed/handles.h"
#include "guard.h"

namespace {

// Bytes that are sent together when many tensors are broadcast, as in DistributedDataParallel.
constexpr size_t kBroadcastBytes = 250 * 1024 * 1024;

}  // namespace

int mrb_process_group_gloo(mrb_error* error, mrb_process_group** group, const mrb_store* store, int64_t rank,
                           int64_t world_size, int64_t timeout_ms) {
  return mrb::guarded(error, [&] {
    const auto options = c10d::ProcessGroupGloo::Options::create_default(std::chrono::milliseconds(timeout_ms));
    auto made = c10::make_intrusive<c10d::ProcessGroup>(store->store, static_cast<int>(rank),
                                                        static_cast<int>(world_size));
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store->store, static_cast<int>(rank),
                                                            static_cast<int>(world_size), options);
    made->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, std::move(gloo));
    made->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
    *group = new mrb_process_group{std::move(made)};
  });
}

int mrb_process_group_shutdown(mrb_error* error, const mrb_process_group* group) {
  return mrb::guarded(error, [&] { group->group->shutdown(); });
}

void mrb_process_group_free(mrb_process_group* group) { delete group; }

int mrb_barrier(mrb_error* error, const mrb_process_group* group) {
  return mrb::guarded(error, [&] { group->group->barrier()->wait(); });
}

int mrb_all_reduce_sum(mrb_error* error, const mrb_process_group* group, const at::Tensor* tensor) {
  return mrb::guarded(error, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    group->group->allreduce(tensors)->wait();
  });
}

int mrb_all_gather(mrb_error* error, const mrb_process_group* group, const at::Tensor* output,
                   const at::Tensor* input) {
  return mrb::guarded(error, [&] {
    at::Tensor out = *output, in = *input;
    group->group->_allgather_base(out, in)->wait();
  });
}

int mrb_gather(mrb_error* error, const mrb_process_group* group, const at::Tensor* output, const at::Tensor* input) {
  return mrb::guarded(error, [&] {
    std::vector<std::vector<at::Tensor>> outputs;
    if (output != nullptr) outputs.push_back(output->unbind());
    std::vector<at::Tensor> inputs{*input};
    c10d::GatherOptions options;
    options.rootRank = 0;
    group->group->gather(outputs, inputs, options)->wait();
  });
}

int mrb_broadcast(mrb_error* error, const mrb_process_group* group, const at::Tensor* const* tensors, size_t len) {
  return mrb::guarded(error, [&] {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> list;
    list.reserve(len);
    for (size_t i = 0; i < len; i++) list.push_back(tensors[i]->detach());
    c10d::broadcast_coalesced(group->group, list, kBroadcastBytes, 0);
  });
}
