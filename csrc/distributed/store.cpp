// The key-value store in which the processes of a job meet: c10d's TCPStore.
#include <ATen/ops/empty.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <c10/util/Logging.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "distributed/handles.h"
#include "guard.h"

namespace {

// What c10d logs about failures comes to the caller as an exception too, without a page of stack frames above it.
void hide_log() {
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = c10::GLOG_FATAL;
}

}  // namespace

int mrb_store_new(mrb_error* error, mrb_store** store, uint16_t* bound_port, const char* host, uint16_t port,
                  bool is_server, int64_t timeout_ms) {
  return mrb::guarded(error, [&] {
    hide_log();
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server;
    options.waitWorkers = false;  // src/utils/comm.rs waits, and can say for whom
    options.timeout = std::chrono::milliseconds(timeout_ms);
    auto tcp = c10::make_intrusive<c10d::TCPStore>(std::string(host), options);
    *bound_port = tcp->getPort();
    *store = new mrb_store{std::move(tcp)};
  });
}

int mrb_store_with_prefix(mrb_error* error, mrb_store** prefixed, const mrb_store* store, const char* prefix) {
  return mrb::guarded(error, [&] {
    *prefixed = new mrb_store{c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), store->store)};
  });
}

void mrb_store_free(mrb_store* store) { delete store; }

int mrb_store_set(mrb_error* error, const mrb_store* store, const char* key, const uint8_t* value, size_t len) {
  return mrb::guarded(error, [&] { store->store->set(key, std::vector<uint8_t>(value, value + len)); });
}

int mrb_store_get(mrb_error* error, at::Tensor** value, const mrb_store* store, const char* key) {
  return mrb::guarded(error, [&] {
    const auto bytes = store->store->get(key);
    auto tensor = at::empty({static_cast<int64_t>(bytes.size())}, at::TensorOptions().dtype(at::kByte));
    std::copy(bytes.begin(), bytes.end(), tensor.data_ptr<uint8_t>());
    *value = new at::Tensor(std::move(tensor));
  });
}

int mrb_store_add(mrb_error* error, int64_t* sum, const mrb_store* store, const char* key, int64_t amount) {
  return mrb::guarded(error, [&] { *sum = store->store->add(key, amount); });
}

int mrb_store_check(mrb_error* error, bool* is_there, const mrb_store* store, const char* key) {
  return mrb::guarded(error, [&] { *is_there = store->store->check({std::string(key)}); });
}
