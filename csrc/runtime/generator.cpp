#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randperm.h>

#include <mutex>

#include "guard.h"

int mrb_generator_new(mrb_error* error, at::Generator** generator, uint64_t seed) {
  return mrb::guarded(error, [&] { *generator = new at::Generator(at::detail::createCPUGenerator(seed)); });
}

int mrb_generator_default(mrb_error* error, at::Generator** generator) {
  return mrb::guarded(error, [&] { *generator = new at::Generator(at::detail::getDefaultCPUGenerator()); });
}

int mrb_generator_default_cuda(mrb_error* error, at::Generator** generator, int64_t index) {
  return mrb::guarded(error, [&] {
    const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(index));
    *generator = new at::Generator(at::globalContext().defaultGenerator(device));
  });
}

void mrb_generator_free(at::Generator* generator) { delete generator; }

int mrb_generator_state(mrb_error* error, at::Tensor** state, at::Generator* generator) {
  return mrb::guarded(error, [&] {
    const std::lock_guard<std::mutex> lock(generator->mutex());
    *state = new at::Tensor(generator->get_state());
  });
}

int mrb_generator_set_state(mrb_error* error, at::Generator* generator, const at::Tensor* state) {
  return mrb::guarded(error, [&] {
    const std::lock_guard<std::mutex> lock(generator->mutex());
    // libtorch 2.11 multiplies the tensor's storage offset by the size of a whole state instead of a byte, and so reads
    // far outside of a storage of which the state is not the beginning: a copy has no offset.
    generator->set_state(state->clone(at::MemoryFormat::Contiguous));
  });
}

int mrb_randperm(mrb_error* error, at::Tensor** output, int64_t n, at::Generator* generator) {
  return mrb::guarded(error, [&] {
    *output = new at::Tensor(at::randperm(n, *generator, at::TensorOptions().dtype(at::kLong)));
  });
}

int mrb_rand(mrb_error* error, at::Tensor** output, int64_t n, at::Generator* generator) {
  return mrb::guarded(error, [&] {
    *output = new at::Tensor(at::rand({n}, *generator, at::TensorOptions().dtype(at::kFloat)));
  });
}
