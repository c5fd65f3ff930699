#include "kernels/cuda/cublaslt/cublaslt_product.h"

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

// A function that returns at once with the first status that is not OK.
#define QS_LT_RETURN_IF_ERROR(expression) \
  if (absl::Status error = (expression); !error.ok()) return error

// What every address of a product is a multiple of.
constexpr uint32_t kAlignment = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Create(const CublasLtApi& api) {
  void* handle = nullptr;
  const int status = api.Create(&handle);
  if (status != kCublasSuccess) {
    return absl::UnavailableError(
        absl::StrCat("cuBLASLt does not start: ", api.GetStatusString(status)));
  }
  return std::unique_ptr<CublasLt>(new CublasLt(api, handle));
}

CublasLt::~CublasLt() { api_.Destroy(handle_); }

absl::Status CublasLt::Check(int status, const char* what) const {
  if (status == kCublasSuccess) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cuBLASLt: ", what, ": ", api_.GetStatusString(status)));
}

// Its matrices are stored by columns: ours by rows, transposed. So it computes
// out^T [out_features, rows] = weight [out_features, in_features] * x^T [in_features, rows].
absl::Status CublasLt::SetUp(const CublasLtProduct& product, Described* d) {
  const auto out = static_cast<uint64_t>(product.out_features);
  const auto in = static_cast<uint64_t>(product.in_features);
  const auto rows = static_cast<uint64_t>(product.rows);
  QS_LT_RETURN_IF_ERROR(Check(api_.DescCreate(&d->desc, kCublasCompute32F, kCudaF32), "describe"));
  QS_LT_RETURN_IF_ERROR(
      Check(api_.DescSet(d->desc, kCublasDescTransA, &kCublasTransposed, sizeof(kCublasTransposed)),
            "transpose"));
  if (product.bias != nullptr) {
    QS_LT_RETURN_IF_ERROR(Check(api_.DescSet(d->desc, kCublasDescEpilogue, &kCublasEpilogueBias,
                                             sizeof(kCublasEpilogueBias)),
                                "epilogue"));
    QS_LT_RETURN_IF_ERROR(
        Check(api_.DescSet(d->desc, kCublasDescBiasPointer, &product.bias, sizeof(product.bias)),
              "bias"));
  }
  QS_LT_RETURN_IF_ERROR(Check(
      api_.LayoutCreate(&d->weight, kCudaBf16, in, out, product.in_features), "weight layout"));
  QS_LT_RETURN_IF_ERROR(
      Check(api_.LayoutCreate(&d->x, kCudaBf16, in, rows, product.in_features), "input layout"));
  return Check(api_.LayoutCreate(&d->out, kCudaF32, out, rows, product.out_features),
               "output layout");
}

absl::Status CublasLt::Describe(const CublasLtProduct& product,
                                absl::FunctionRef<absl::Status(const Described&)> use) {
  Described d = {};
  absl::Status status = SetUp(product, &d);
  if (status.ok()) status = use(d);
  for (void* layout : {d.out, d.x, d.weight}) {
    if (layout != nullptr) api_.LayoutDestroy(layout);
  }
  if (d.desc != nullptr) api_.DescDestroy(d.desc);
  return status;
}

absl::StatusOr<std::vector<CublasLtAlgo>> CublasLt::Candidates(const CublasLtProduct& product,
                                                               size_t workspace_bytes, int count) {
  void* preference = nullptr;
  QS_LT_RETURN_IF_ERROR(Check(api_.PreferenceCreate(&preference), "preference"));
  const uint64_t workspace = workspace_bytes;
  const uint32_t reductions = kCublasReductionComputeType | kCublasReductionOutputType;
  int status = api_.PreferenceSet(preference, kCublasPrefWorkspace, &workspace, sizeof(workspace));
  if (status == kCublasSuccess) {
    status = api_.PreferenceSet(preference, kCublasPrefReductions, &reductions, sizeof(reductions));
  }
  for (int i = 0; i < 4 && status == kCublasSuccess; ++i) {
    status =
        api_.PreferenceSet(preference, kCublasPrefAlignmentA + i, &kAlignment, sizeof(kAlignment));
  }
  std::vector<CublasLtHeuristic> results(static_cast<size_t>(count));
  int returned = 0;
  absl::Status asked = Check(status, "preference");
  if (asked.ok()) {
    asked = Describe(product, [&](const Described& d) {
      return Check(api_.GetHeuristic(handle_, d.desc, d.weight, d.x, d.out, d.out, preference,
                                     count, results.data(), &returned),
                   "no way to multiply");
    });
  }
  api_.PreferenceDestroy(preference);
  if (!asked.ok()) return asked;
  std::vector<CublasLtAlgo> algos;
  for (int i = 0; i < returned && i < count; ++i) {
    const CublasLtHeuristic& result = results[static_cast<size_t>(i)];
    if (result.state == kCublasSuccess && result.workspace_bytes <= workspace_bytes) {
      algos.push_back(result.algo);
    }
  }
  return algos;
}

absl::Status CublasLt::Multiply(const CublasLtProduct& product, const CublasLtAlgo& algo,
                                void* workspace, size_t workspace_bytes, void* stream) {
  return Describe(product, [&](const Described& d) {
    const float one = 1, zero = 0;
    return Check(api_.Matmul(handle_, d.desc, &one, product.weight, d.weight, product.x, d.x, &zero,
                             product.out, d.out, product.out, d.out, &algo, workspace,
                             workspace_bytes, stream),
                 "product");
  });
}

}  // namespace qwenserve
