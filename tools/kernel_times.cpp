// Sums up the time of every CUDA kernel and copy of a program, by name, without changing the program. The profiles in
// docs/RESULTS.md come from it.
//
//   g++ -O2 -fPIC -shared -I$CUDA/include tools/kernel_times.cpp -o kernel_times.so -L$CUDA/lib -l:libcupti.so.13
//   CUDA_INJECTION64_PATH=$PWD/kernel_times.so KERNEL_TIMES=report.txt target/release/benchmark …
//
// $CUDA: nvidia/cu13 beside libtorch (tools/setup_libtorch.sh --cuda); its lib folder has to be on LD_LIBRARY_PATH.
// Runs that do not count are in the sums: divide by all runs.
#include <cupti.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Sum {
  uint64_t nanoseconds = 0, number = 0;
};

struct Times {
  std::mutex mutex;
  std::map<std::string, Sum> by_name;
};

// Never freed: records may come until the very end.
Times& times() {
  static auto* kept = new Times;
  return *kept;
}

template <typename Record>
void add(const std::string& name, const CUpti_Activity* activity) {
  const auto* record = reinterpret_cast<const Record*>(activity);
  auto& sum = times().by_name[name];
  sum.nanoseconds += record->end - record->start;
  sum.number += 1;
}

void buffer_wanted(uint8_t** buffer, size_t* size, size_t* most_records) {
  *size = 8 << 20;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, *size));
  *most_records = 0;
}

void buffer_full(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard<std::mutex> lock(times().mutex);
  CUpti_Activity* activity = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &activity) == CUPTI_SUCCESS) {
    if (activity->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const char* name = reinterpret_cast<const CUpti_ActivityKernel10*>(activity)->name;
      add<CUpti_ActivityKernel10>(name ? name : "?", activity);
    } else if (activity->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const int kind = reinterpret_cast<const CUpti_ActivityMemcpy6*>(activity)->copyKind;
      add<CUpti_ActivityMemcpy6>("memcpy of kind " + std::to_string(kind), activity);
    } else if (activity->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      add<CUpti_ActivityMemset4>("memset", activity);
    }
  }
  std::free(buffer);
}

void report() {
  cuptiActivityFlushAll(1);
  const char* path = std::getenv("KERNEL_TIMES");
  std::FILE* file = path ? std::fopen(path, "w") : stderr;
  if (file == nullptr) return std::perror(path);
  const std::lock_guard<std::mutex> lock(times().mutex);
  std::vector<std::pair<std::string, Sum>> all(times().by_name.begin(), times().by_name.end());
  std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.second.nanoseconds > b.second.nanoseconds; });
  Sum total;
  for (const auto& [name, sum] : all) {
    total.nanoseconds += sum.nanoseconds;
    total.number += sum.number;
  }
  const auto line = [&](const Sum& sum, const char* name) {
    std::fprintf(file, "%10.3f ms %8llu  %s\n", sum.nanoseconds / 1e6, static_cast<unsigned long long>(sum.number), name);
  };
  line(total, "in all");
  for (const auto& [name, sum] : all) line(sum, name.c_str());
  if (path) std::fclose(file);
}

}  // namespace

// The driver calls it when the program first uses CUDA.
extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(buffer_wanted, buffer_full);
  for (const auto kind : {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET}) {
    cuptiActivityEnable(kind);
  }
  std::atexit(report);
  return 1;
}
