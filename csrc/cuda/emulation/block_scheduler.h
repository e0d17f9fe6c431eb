// Runs the threads of a block in turns on one thread of the host, each on a stack of its own once one of them waits at a
// barrier. The order is the same every time; blocks with an odd index start their threads in reverse, so that a missing
// barrier shows in one of the two.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// What a kernel sees of the thread that runs at the moment.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace mrb::emulation {

class BlockScheduler {
 public:
  // Calls `body` for every thread of every block. Calls from several threads of the host wait for each other.
  void run(dim3 grid, dim3 size, const std::function<void()>& body) {
    const std::lock_guard<std::mutex> guard(lock_);
    body_ = &body;
    gridDim = grid;
    blockDim = size;
    threads_ = static_cast<size_t>(size.x) * size.y * size.z;
    size_t number = 0;
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          blockIdx = {x, y, z};
          reversed_ = number++ % 2 == 1;
          run_block();
        }
      }
    }
  }

  // __syncthreads(): goes on when every thread of the block waits or has ended.
  void wait_for_block() {
    Fiber* self = current_;
    self->thread = threadIdx;
    waiting_.push_back(self);
    swapcontext(&self->context, &scheduler_);
    threadIdx = self->thread;
  }

 private:
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    uint3 thread;
  };
  static constexpr size_t stack_bytes = 128 << 10;

  void run_block() {
    started_ = 0;
    while (started_ < threads_) resume(idle_fiber());
    while (!waiting_.empty()) {
      auto released = std::move(waiting_);
      waiting_.clear();
      for (Fiber* fiber : released) resume(fiber);
    }
  }

  void resume(Fiber* fiber) {
    current_ = fiber;
    swapcontext(&scheduler_, &fiber->context);
  }

  Fiber* idle_fiber() {
    if (idle_.empty()) {
      fibers_.push_back(std::make_unique<Fiber>());
      Fiber* fiber = fibers_.back().get();
      fiber->stack.reset(new char[stack_bytes]);
      getcontext(&fiber->context);
      fiber->context.uc_stack.ss_sp = fiber->stack.get();
      fiber->context.uc_stack.ss_size = stack_bytes;
      fiber->context.uc_link = nullptr;
      makecontext(&fiber->context, &BlockScheduler::fiber_main, 0);
      idle_.push_back(fiber);
    }
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  // A fiber runs one thread after the other, as long as none of them waits, then rests.
  static void fiber_main();

  void start_threads() {
    while (started_ < threads_) {
      const size_t number = reversed_ ? threads_ - 1 - started_ : started_;
      ++started_;
      threadIdx = {static_cast<unsigned>(number % blockDim.x),
                   static_cast<unsigned>(number / blockDim.x % blockDim.y),
                   static_cast<unsigned>(number / blockDim.x / blockDim.y)};
      (*body_)();
    }
  }

  void rest() {
    Fiber* self = current_;
    idle_.push_back(self);
    swapcontext(&self->context, &scheduler_);
  }

  std::mutex lock_;
  const std::function<void()>* body_ = nullptr;
  size_t threads_ = 0, started_ = 0;
  bool reversed_ = false;
  ucontext_t scheduler_{};
  Fiber* current_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_, waiting_;
};

inline BlockScheduler& scheduler() {
  static BlockScheduler instance;
  return instance;
}

inline void BlockScheduler::fiber_main() {
  for (;;) {
    scheduler().start_threads();
    scheduler().rest();
  }
}

}  // namespace mrb::emulation
