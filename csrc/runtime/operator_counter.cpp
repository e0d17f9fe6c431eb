// Which operators libtorch runs, and how often: what a GPU is sent goes through them one by one.
#include <ATen/record_function.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>

#include "guard.h"

namespace {

struct Counts {
  std::mutex lock;
  std::map<std::string, int64_t> by_name;
  at::CallbackHandle handle = at::INVALID_CALLBACK_HANDLE;
};

Counts& counts() {
  static Counts all;
  return all;
}

// What a GPU has no work with: new memory, and other views of the same. (`to` and the like call a copy where they make
// one.)
bool is_free(const char* name) {
  static const std::unordered_set<std::string_view> names = {
      "aten::_nnpack_available", "aten::_reshape_alias", "aten::_unsafe_view",   "aten::alias",
      "aten::as_strided",        "aten::as_strided_",    "aten::chunk",          "aten::contiguous",
      "aten::detach",            "aten::detach_",        "aten::empty",          "aten::empty_like",
      "aten::empty_strided",     "aten::expand",         "aten::expand_as",      "aten::flatten",
      "aten::narrow",            "aten::new_empty",      "aten::new_empty_strided", "aten::permute",
      "aten::reshape",           "aten::resize_",        "aten::resize_as_",     "aten::resolve_conj",
      "aten::resolve_neg",       "aten::result_type",    "aten::select",         "aten::set_",
      "aten::slice",             "aten::split",          "aten::split_with_sizes", "aten::squeeze",
      "aten::squeeze_",          "aten::t",              "aten::to",             "aten::transpose",
      "aten::transpose_",        "aten::unbind",         "aten::unsqueeze",      "aten::unsqueeze_",
      "aten::view",              "aten::view_as",        "detach",
  };
  return names.count(name) > 0 || std::string_view(name).substr(0, 10) == "autograd::";
}

// Operators that call others (linear, say, which calls addmm) are not counted, only what they call.
struct Running : at::ObserverContext {
  Running* caller;
  std::string outermost;
  bool calls_others = false;
};

thread_local Running* innermost = nullptr;

// Steps of the backward pass have long names.
std::string short_name(const at::RecordFunction& function) {
  const std::string name = function.name(), prefix = "autograd::engine::evaluate_function: ";
  return name.compare(0, prefix.size(), prefix) == 0 ? name.substr(prefix.size()) : name;
}

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
  auto running = std::make_unique<Running>();
  running->caller = innermost;
  running->outermost = innermost ? innermost->outermost : short_name(function);
  innermost = running.get();
  return running;
}

void end(const at::RecordFunction& function, at::ObserverContext* context) {
  const auto* running = static_cast<Running*>(context);
  innermost = running->caller;
  const bool counts_itself = !running->calls_others && !is_free(function.name());
  if (innermost && (counts_itself || running->calls_others)) innermost->calls_others = true;
  if (!counts_itself) return;
  const std::lock_guard<std::mutex> guard(counts().lock);
  const std::string name = function.name();
  ++counts().by_name[name == running->outermost ? name : name + " in " + running->outermost];
}

}  // namespace

int mrb_count_operators(mrb_error* error, bool on) {
  return mrb::guarded(error, [&] {
    auto& all = counts();
    if (all.handle != at::INVALID_CALLBACK_HANDLE) at::removeCallback(all.handle);
    all.handle = at::INVALID_CALLBACK_HANDLE;
    if (!on) return;
    const std::lock_guard<std::mutex> guard(all.lock);
    all.by_name.clear();
    all.handle = at::addGlobalCallback(at::RecordFunctionCallback(begin, end).scopes({at::RecordScope::FUNCTION}));
  });
}

int mrb_operators_counted(mrb_error* error, void* sink, void (*take)(void* sink, const char* name, int64_t count)) {
  return mrb::guarded(error, [&] {
    const std::lock_guard<std::mutex> guard(counts().lock);
    for (const auto& [name, count] : counts().by_name) take(sink, name.c_str(), count);
  });
}
