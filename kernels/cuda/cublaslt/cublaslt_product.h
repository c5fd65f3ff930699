#ifndef QWENSERVE_KERNELS_CUDA_CUBLASLT_CUBLASLT_PRODUCT_H_
#define QWENSERVE_KERNELS_CUDA_CUBLASLT_CUBLASLT_PRODUCT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cublaslt/cublaslt_api.h"

namespace qwenserve {

// out = x * weight^T + bias: x bf16 [rows, in_features], weight bf16 [out_features, in_features],
// bias float [out_features] or null, out float [rows, out_features]. Device memory, aligned to 16
// bytes.
struct CublasLtProduct {
  int64_t rows = 0, out_features = 0, in_features = 0;
  const void* x = nullptr;
  const void* weight = nullptr;
  const float* bias = nullptr;
  float* out = nullptr;
};

// Products by cuBLASLt. One thread. UNAVAILABLE with the library's words for what it refuses.
class CublasLt {
 public:
  // The calling thread's current device is the one that is multiplied on.
  static absl::StatusOr<std::unique_ptr<CublasLt>> Create(const CublasLtApi& api);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;

  size_t version() const { return api_.GetVersion(); }  // 130201 is 13.2.1

  // At most `count` ways to do such a product within the workspace, the most promising first; only
  // ways that give the same bits each time.
  absl::StatusOr<std::vector<CublasLtAlgo>> Candidates(const CublasLtProduct& product,
                                                       size_t workspace_bytes, int count);
  // Issues it to `stream` (cudaStream_t).
  absl::Status Multiply(const CublasLtProduct& product, const CublasLtAlgo& algo, void* workspace,
                        size_t workspace_bytes, void* stream);

 private:
  struct Described {
    void *desc, *weight, *x, *out;
  };

  CublasLt(const CublasLtApi& api, void* handle) : api_(api), handle_(handle) {}
  absl::Status Check(int status, const char* what) const;
  // Calls `use` with the descriptors of a product and destroys them.
  absl::Status Describe(const CublasLtProduct& product,
                        absl::FunctionRef<absl::Status(const Described&)> use);
  absl::Status SetUp(const CublasLtProduct& product, Described* d);

  const CublasLtApi api_;
  void* const handle_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_CUBLASLT_CUBLASLT_PRODUCT_H_
