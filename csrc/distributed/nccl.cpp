// Opens the shared library of csrc/distributed/nccl.
#include <dlfcn.h>

#include "distributed/handles.h"
#include "guard.h"

int mrb_process_group_add_nccl(mrb_error* error, const mrb_process_group* group, const mrb_store* store, int64_t rank,
                               int64_t world_size, int64_t timeout_ms) {
  using Attach = int(mrb_error*, const mrb_process_group*, const mrb_store*, int64_t, int64_t, int64_t);
  Attach* attach = nullptr;
  const int failed = mrb::guarded(error, [&] {
#ifdef MRB_WITH_NCCL
    // By the program's run path: where it was built, or the folder lib beside it.
    void* library = dlopen("libmrb_nccl.so", RTLD_NOW);
    TORCH_CHECK(library != nullptr, "the part of this program that knows NCCL cannot be opened: ", dlerror());
    attach = reinterpret_cast<Attach*>(dlsym(library, "mrb_nccl_attach"));
    TORCH_CHECK(attach != nullptr, "libmrb_nccl.so is not of this program");
#else
    TORCH_CHECK(false, "this program was built without NCCL, which several processes with GPUs need: build it again "
                       "with the headers of CUDA and NCCL (tools/setup_libtorch.sh --cuda)");
#endif
  });
  return failed != 0 ? failed : attach(error, group, store, rank, world_size, timeout_ms);
}
