#ifndef QWENSERVE_TESTS_KERNELS_CUDA_INSTALLED_H_
#define QWENSERVE_TESTS_KERNELS_CUDA_INSTALLED_H_

#include <dlfcn.h>
#include <stdlib.h>

#include <string>

namespace qwenserve {

// Whether this machine has a library, asked of the loader itself: a test of one skips only where
// there is none, and fails where there is one that we cannot use.
inline bool IsInstalled(const std::string& library) {
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) return true;
  const char* error = dlerror();
  return error == nullptr ||
         std::string(error).find(library + ": cannot open shared object file") == std::string::npos;
}

// What tests give to LoadNccl: tools/gpu_check names the library where only pip's package has it.
inline std::string NcclForTests() {
  const char* library = getenv("QWENSERVE_NCCL_LIBRARY");
  return library == nullptr ? "" : library;
}
inline bool HasNccl() { return !NcclForTests().empty() || IsInstalled("libnccl.so.2"); }

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_CUDA_INSTALLED_H_
