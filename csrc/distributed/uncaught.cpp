// Exceptions of C++ threads that nobody catches. c10d's watchdog of NCCL ends a process in this way, in a thread of its
// own.
#include <c10/util/Exception.h>

#include <atomic>
#include <cstdlib>
#include <exception>

#include "api.h"

namespace {

std::atomic<void (*)(const char*)> report_to{nullptr};
std::terminate_handler handler_before = nullptr;

[[noreturn]] void on_terminate() {
  // The first one is told; a second one must not wait for the first one's end.
  if (const auto report = report_to.exchange(nullptr)) {
    try {
      if (const auto thrown = std::current_exception()) std::rethrow_exception(thrown);
      report("std::terminate was called");
    } catch (const c10::Error& e) {
      report(e.what_without_backtrace());
    } catch (const std::exception& e) {
      report(e.what());
    } catch (...) {
      report("an exception of an unknown type");
    }
  }
  handler_before();
  std::abort();
}

}  // namespace

void mrb_on_uncaught_exception(void (*report)(const char*)) {
  static const bool installed = [] {
    handler_before = std::set_terminate(on_terminate);
    return true;
  }();
  static_cast<void>(installed);
  report_to.store(report);
}
