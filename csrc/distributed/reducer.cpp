// Gradients averaged while backward runs: c10d::Reducer, the core of DistributedDataParallel.
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "distributed/handles.h"
#include "guard.h"

struct mrb_reducer {
  std::unique_ptr<c10d::Reducer> reducer;
};

int mrb_reducer_new(mrb_error* error, mrb_reducer** reducer, const mrb_process_group* group,
                    const at::Tensor* const* parameters, const char* const* names, size_t len) {
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
    auto made = std::make_unique<c10d::Reducer>(
        std::move(list), std::move(buckets), group->group, sparse, c10d::kDefaultBucketBytesCap,
        /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/false, std::move(name_of),
        c10d::kDefaultFirstBucketBytes, /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
        std::vector<int64_t>{});
    *reducer = new mrb_reducer{std::move(made)};
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
  return mrb::guarded(error, [&] { reducer->reducer->prepare_for_backward({}); });
}

int mrb_reducer_check_finalized(mrb_error* error, mrb_reducer* reducer) {
  return mrb::guarded(error, [&] { reducer->reducer->check_finalized(); });
}
