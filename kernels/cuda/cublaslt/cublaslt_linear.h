#ifndef QWENSERVE_KERNELS_CUDA_CUBLASLT_CUBLASLT_LINEAR_H_
#define QWENSERVE_KERNELS_CUDA_CUBLASLT_CUBLASLT_LINEAR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/buffer.h"
#include "kernels/cuda/cublaslt/cublaslt_product.h"
#include "kernels/cuda/cublaslt/product_choices.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

struct CublasLtOptions {
  // Writes a weight to device memory as bf16 [out_features, in_features], on kCompute.
  std::function<void(const LinearWeight& weight, void* out)> unpack;
  std::string choices_file;  // see ProductChoices
  std::function<void(absl::string_view)> warn;
  // Of one wait for the device.
  absl::Duration timeout = absl::Seconds(120);
  std::function<absl::Time()> now = absl::Now;
};

// Products of many rows on a GPU where bits may differ from batch to batch ("fast"): by cuBLASLt or
// by our own kernels, whichever took less time when such a product was first met. Packed weights
// are unpacked into scratch memory each time, which counts.
//
// Not run on a GPU so far: what is tested is the choosing, over a stand-in for the library.
class CublasLtLinear {
 public:
  // Products of fewer rows are bound by the reading of weights, at which our kernels are better.
  static constexpr int64_t kLeastRows = 65;
  static constexpr size_t kWorkspaceBytes = size_t{64} << 20;
  static constexpr int kCandidates = 6;
  // A weight that unpacked is bigger than this, or that has so many more outputs than inputs (a
  // vocabulary, of which few rows are asked), is always multiplied by our own kernels.
  static constexpr size_t kMostUnpacked = size_t{1} << 30;
  static constexpr int64_t kMostOutputsPerInput = 16;

  struct Product {
    const void* x = nullptr;  // bf16 [rows, weight.in_features]
    int64_t rows = 0;
    const LinearWeight* weight = nullptr;
    const float* bias = nullptr;
    float* out = nullptr;  // [rows, weight.out_features]
  };

  // `device` must outlive it. Errors of CublasLt::Create, and RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<CublasLtLinear>> Create(GpuDevice& device,
                                                                const CublasLtApi& api,
                                                                CublasLtOptions options);

  // Takes the memory that products with this weight need, so that it is known before the KV cache
  // takes the rest. Without memory such products are left to our own kernels.
  void Reserve(const LinearWeight& weight);

  // Multiplies. `own`: the same by our kernels. `finish`: to be issued behind a product by
  // cuBLASLt, what `own` does at the end; or null. `may_measure`: false while work is recorded.
  void Multiply(const Product& product, bool may_measure, absl::FunctionRef<void()> own,
                const std::function<void()>& finish);

 private:
  CublasLtLinear(GpuDevice& device, std::unique_ptr<CublasLt> library, CublasLtOptions options);

  bool IsCandidate(const Product& product) const;
  ProductChoice Choose(const Product& product, absl::FunctionRef<void()> own,
                       const std::function<void()>& finish);
  absl::Status MultiplyBy(const CublasLtAlgo& algo, const Product& product,
                          const std::function<void()>& finish);
  // Of a few calls on an idle device: the least of some tries.
  absl::StatusOr<absl::Duration> TimeOf(absl::FunctionRef<absl::Status()> issue);
  void Warn(absl::string_view what);

  GpuDevice& device_;
  const std::unique_ptr<CublasLt> library_;
  const CublasLtOptions options_;
  ProductChoices choices_;
  Buffer workspace_, unpacked_;
  bool warned_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_CUBLASLT_CUBLASLT_LINEAR_H_
