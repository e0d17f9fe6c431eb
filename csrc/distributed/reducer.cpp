// Gradients averaged while backward runs: c10d::Reducer, the core of DistributedDataParallel.
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "distributed/handles.h"
#include "guard.h"

namespace {

// Counts the gradients of a backward pass. Its hooks run before a gradient is accumulated, hence before c10d's.
class Countdown {
 public:
  Countdown(std::vector<at::Tensor> parameters, void (*on_computed)(void))
      : parameters_(std::move(parameters)), missing_(std::make_shared<std::atomic<size_t>>(0)) {
    for (const auto& parameter : parameters_) {
      hooks_.push_back(parameter.register_hook([missing = missing_, on_computed](const at::Tensor&) {
        // Not counting (0) outside of the passes that are averaged.
        if (missing->load() > 0 && missing->fetch_sub(1) == 1) on_computed();
      }));
    }
  }

  ~Countdown() {
    for (size_t i = 0; i < hooks_.size(); i++) parameters_[i].remove_hook(hooks_[i]);
  }

  Countdown(const Countdown&) = delete;
  Countdown& operator=(const Countdown&) = delete;

  void start() { missing_->store(parameters_.size()); }

 private:
  std::vector<at::Tensor> parameters_;
  std::vector<unsigned> hooks_;
  std::shared_ptr<std::atomic<size_t>> missing_;
};

}  // namespace

struct mrb_reducer {
  std::unique_ptr<c10d::Reducer> reducer;
  std::unique_ptr<Countdown> countdown;
};

int mrb_reducer_new(mrb_error* error, mrb_reducer** reducer, const mrb_process_group* group,
                    const at::Tensor* const* parameters, const char* const* names, size_t len,
                    void (*on_computed)(void)) {
  return mrb::guarded(error, [&] {
    std::vector<at::Tensor> list;
    std::unordered_map<size_t, std::string> name_of;
    for (size_t i = 0; i < len; i++) {
      list.push_back(*parameters[i]);
      name_of.emplace(i, names[i]);
    }
    c10d::verify_params_across_processes(group->group, list, std::nullopt);
    const std::vector<bool> sparse(len, false);
    const std::vector<size_t> limits{static_cast<size_t>(c10d::kDefaultFirstBucketBytes),
                                     static_cast<size_t>(c10d::kDefaultBucketBytesCap)};
    auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(list, limits, sparse));
    // Gradients come in about the reverse order of the parameters.
    std::reverse(buckets.begin(), buckets.end());
    auto countdown = std::make_unique<Countdown>(list, on_computed);
    // Gradients are parts of the buckets: the averages need not be copied back, and are not in memory twice.
    auto made = std::make_unique<c10d::Reducer>(
        std::move(list), std::move(buckets), group->group, sparse, c10d::kDefaultBucketBytesCap,
        /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/true, std::move(name_of),
        c10d::kDefaultFirstBucketBytes, /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
        std::vector<int64_t>{});
    *reducer = new mrb_reducer{std::move(made), std::move(countdown)};
  });
}

int mrb_reducer_free(mrb_error* error, mrb_reducer* reducer) {
  return mrb::guarded(error, [&] { delete reducer; });
}

int mrb_reducer_prepare_for_forward(mrb_error* error, mrb_reducer* reducer) {
  return mrb::guarded(error, [&] {
    reducer->reducer->prepare_for_forward();
    reducer->reducer->rebuild_buckets();
  });
}

int mrb_reducer_prepare_for_backward(mrb_error* error, mrb_reducer* reducer) {
  return mrb::guarded(error, [&] {
    reducer->reducer->prepare_for_backward({});
    reducer->countdown->start();
  });
}

int mrb_reducer_check_finalized(mrb_error* error, mrb_reducer* reducer) {
  return mrb::guarded(error, [&] { reducer->reducer->check_finalized(); });
}
