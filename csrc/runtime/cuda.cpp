// Whether CUDA can be used here and, if not, what is missing; opening libtorch's CUDA library.
//
// Programs link the kernels, the static CUDA runtime and libc10_cuda only, so that one build starts with and without a
// GPU. libtorch_cuda and the libraries that it needs are opened here, once, when CUDA is asked for.
#include "guard.h"

#ifdef MRB_WITH_CUDA

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <string>

namespace mrb {
namespace {

void check_cuda(const char* what, cudaError_t status) {
  TORCH_CHECK(status == cudaSuccess, what, ": ", cudaGetErrorString(status));
}

// The folder of the libtorch that this process runs on.
std::string libtorch_folder() {
  std::string folder;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        const std::string path = info->dlpi_name;
        const auto slash = path.rfind('/');
        if (slash == std::string::npos || path.compare(slash + 1, std::string::npos, "libtorch_cpu.so") != 0) return 0;
        *static_cast<std::string*>(data) = path.substr(0, slash + 1);
        return 1;
      },
      &folder);
  return folder;
}

void require_driver() {
  if (dlopen("libcuda.so.1", RTLD_LAZY) == nullptr) {
    TORCH_CHECK(false, "this machine has no NVIDIA driver: ", dlerror());
  }
}

int device_count() {
  require_driver();
  int count = 0;
  const auto status = cudaGetDeviceCount(&count);
  TORCH_CHECK(status != cudaErrorNoDevice && (status != cudaSuccess || count > 0),
              "this machine has no NVIDIA GPU that CUDA can see (CUDA_VISIBLE_DEVICES?)");
  check_cuda("the NVIDIA driver does not answer", status);
  return count;
}

// 0 where cuDNN is not there.
int64_t cudnn_version() {
  const std::string beside = libtorch_folder() + "../../nvidia/cudnn/lib/libcudnn.so.9";
  void* library = dlopen(beside.c_str(), RTLD_LAZY);
  if (library == nullptr) library = dlopen("libcudnn.so.9", RTLD_LAZY);
  if (library == nullptr) return 0;
  const auto version = reinterpret_cast<size_t (*)()>(dlsym(library, "cudnnGetVersion"));
  return version == nullptr ? 0 : static_cast<int64_t>(version());
}

}  // namespace
}  // namespace mrb

int mrb_cuda_devices(mrb_error* error, mrb_cuda_versions* versions, int64_t* count) {
  return mrb::guarded(error, [&] {
    const int found = mrb::device_count();
    int driver = 0;
    mrb::check_cuda("the version of the driver", cudaDriverGetVersion(&driver));
    *versions = {CUDART_VERSION, driver, mrb::cudnn_version()};
    *count = found;
  });
}

int mrb_cuda_device_at(mrb_error* error, mrb_cuda_device* device, int64_t index) {
  return mrb::guarded(error, [&] {
    mrb::require_driver();
    cudaDeviceProp properties;
    mrb::check_cuda("the properties of the GPU", cudaGetDeviceProperties(&properties, static_cast<int>(index)));
    std::memcpy(device->name, properties.name, sizeof device->name);
    device->total_memory = static_cast<int64_t>(properties.totalGlobalMem);
    device->major = properties.major;
    device->minor = properties.minor;
  });
}

int mrb_cuda_open(mrb_error* error) {
  return mrb::guarded(error, [&] {
    mrb::device_count();
    const auto path = mrb::libtorch_folder() + "libtorch_cuda.so";
    if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      TORCH_CHECK(false, "libtorch's CUDA library cannot be opened: ", dlerror(),
                  " (tools/setup_libtorch.sh --cuda fetches it with everything that it needs)");
    }
  });
}

#else

namespace {

int without_kernels(mrb_error* error) {
  mrb::set_error(
      error, "this program was built without CUDA kernels: build it again with nvcc (tools/setup_libtorch.sh --cuda)");
  return 1;
}

}  // namespace

int mrb_cuda_devices(mrb_error* error, mrb_cuda_versions*, int64_t*) { return without_kernels(error); }
int mrb_cuda_device_at(mrb_error* error, mrb_cuda_device*, int64_t) { return without_kernels(error); }
int mrb_cuda_open(mrb_error* error) { return without_kernels(error); }

#endif
