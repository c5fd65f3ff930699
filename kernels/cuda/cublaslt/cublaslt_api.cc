#include "kernels/cuda/cublaslt/cublaslt_api.h"

#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

class Symbols {
 public:
  explicit Symbols(void* handle) : handle_(handle) {}
  template <typename Function>
  void Find(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(handle_, name));
    if (*function == nullptr && missing_.empty()) missing_ = name;
  }
  const std::string& missing() const { return missing_; }

 private:
  void* const handle_;
  std::string missing_;
};

absl::Status Missing(absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("cuBLASLt cannot be used (", why,
                   "): install libcublas of the same CUDA, and let LD_LIBRARY_PATH name its folder "
                   "where the loader does not know it"));
}

}  // namespace

absl::StatusOr<CublasLtApi> LoadCublasLt(int cuda_major) {
  const std::string name = absl::StrCat("libcublasLt.so.", cuda_major);
  // Never closed: it has threads of its own.
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* error = dlerror();
    return Missing(error == nullptr ? name : std::string(error));
  }
  CublasLtApi api;
  Symbols symbols(library);
  symbols.Find("cublasLtGetVersion", &api.GetVersion);
  symbols.Find("cublasLtGetStatusString", &api.GetStatusString);
  symbols.Find("cublasLtCreate", &api.Create);
  symbols.Find("cublasLtDestroy", &api.Destroy);
  symbols.Find("cublasLtMatmulDescCreate", &api.DescCreate);
  symbols.Find("cublasLtMatmulDescDestroy", &api.DescDestroy);
  symbols.Find("cublasLtMatmulDescSetAttribute", &api.DescSet);
  symbols.Find("cublasLtMatrixLayoutCreate", &api.LayoutCreate);
  symbols.Find("cublasLtMatrixLayoutDestroy", &api.LayoutDestroy);
  symbols.Find("cublasLtMatmulPreferenceCreate", &api.PreferenceCreate);
  symbols.Find("cublasLtMatmulPreferenceDestroy", &api.PreferenceDestroy);
  symbols.Find("cublasLtMatmulPreferenceSetAttribute", &api.PreferenceSet);
  symbols.Find("cublasLtMatmulAlgoGetHeuristic", &api.GetHeuristic);
  symbols.Find("cublasLtMatmul", &api.Matmul);
  if (!symbols.missing().empty()) {
    return Missing(absl::StrCat(name, " has no ", symbols.missing()));
  }
  return api;
}

}  // namespace qwenserve
