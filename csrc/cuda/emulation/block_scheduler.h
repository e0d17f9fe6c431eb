// Runs the threads of a block in turns on one thread of the host, each on a stack of its own once one of them waits at
// a barrier. A test chooses the order of threads and blocks: what depends on it, other than a sum's last digits, is a
// race.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
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

// The order of blocks, and of a block's threads from one barrier to the next. `shuffled` is the same every time.
enum class Order { rising, falling, shuffled };

// Of the launches from this thread of the host.
inline thread_local Order order = Order::rising;

class BlockScheduler {
 public:
  // Calls `body` for every thread of every block. Calls from several threads of the host wait for each other.
  void run(dim3 grid, dim3 size, const std::function<void()>& body) {
    const std::lock_guard<std::mutex> guard(lock_);
    body_ = &body;
    gridDim = grid;
    blockDim = size;
    random_.seed(1);
    numbers_.resize(static_cast<size_t>(size.x) * size.y * size.z);
    std::vector<uint64_t> blocks(static_cast<uint64_t>(grid.x) * grid.y * grid.z);
    std::iota(blocks.begin(), blocks.end(), 0);
    arrange(blocks);
    for (const uint64_t block : blocks) {
      blockIdx = {static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                  static_cast<unsigned>(block / grid.x / grid.y)};
      run_block();
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

  // Rising numbers in the order that was chosen.
  template <typename T>
  void arrange(std::vector<T>& numbers) {
    if (order == Order::falling) std::reverse(numbers.begin(), numbers.end());
    if (order == Order::shuffled) std::shuffle(numbers.begin(), numbers.end(), random_);
  }

  void run_block() {
    std::iota(numbers_.begin(), numbers_.end(), 0);
    arrange(numbers_);
    started_ = 0;
    while (started_ < numbers_.size()) resume(idle_fiber());
    while (!waiting_.empty()) {
      // They wait in the order in which they ran, which is a new one each time only if it is shuffled.
      auto released = std::move(waiting_);
      waiting_.clear();
      if (order == Order::shuffled) arrange(released);
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
    while (started_ < numbers_.size()) {
      const uint32_t number = numbers_[started_++];
      threadIdx = {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
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
  std::mt19937 random_;
  std::vector<uint32_t> numbers_;  // of the block's threads, in the order in which they start
  size_t started_ = 0;
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
