// The library's binary interface as we declare it, against its header where that is installed, and
// the loading of it.
#include "kernels/cuda/cublaslt/cublaslt_api.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda_info.h"
#include "tests/kernels/cuda/installed.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

namespace qwenserve {
static_assert(kCublasSuccess == CUBLAS_STATUS_SUCCESS);
static_assert(kCublasCompute32F == CUBLAS_COMPUTE_32F);
static_assert(kCudaF32 == CUDA_R_32F);
static_assert(kCudaBf16 == CUDA_R_16BF);
static_assert(kCublasTransposed == CUBLAS_OP_T);
static_assert(sizeof(kCublasTransposed) == sizeof(cublasOperation_t));
static_assert(kCublasEpilogueBias == CUBLASLT_EPILOGUE_BIAS);
static_assert(kCublasDescTransA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(kCublasDescEpilogue == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(kCublasDescBiasPointer == CUBLASLT_MATMUL_DESC_BIAS_POINTER);
static_assert(kCublasPrefWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(kCublasPrefReductions == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(kCublasPrefAlignmentA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(kCublasPrefAlignmentA + 3 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(kCublasReductionComputeType == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
static_assert(kCublasReductionOutputType == CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE);
static_assert(sizeof(CublasLtAlgo) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(CublasLtHeuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(CublasLtHeuristic, workspace_bytes) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(CublasLtHeuristic, state) ==
              offsetof(cublasLtMatmulHeuristicResult_t, state));
}  // namespace qwenserve
#endif

namespace qwenserve {
namespace {

TEST(CublasLtApi, ALibraryThatIsNotThereIsNamed) {
  const auto api = LoadCublasLt(77);
  EXPECT_EQ(api.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(api.status().message()), testing::HasSubstr("libcublasLt.so.77"));
}

TEST(CublasLtApi, FindsAllFunctionsWhereThereIsOne) {
  if (!IsInstalled("libcublasLt.so.13")) GTEST_SKIP() << "no cuBLASLt on this machine";
  const auto api = LoadCublasLt(13);
  ASSERT_TRUE(api.ok()) << api.status();
  EXPECT_EQ(api->GetVersion() / 10000, 13);
  void* handle = nullptr;
  const int status = api->Create(&handle);
  if (CountCudaDevices().ok()) EXPECT_EQ(status, kCublasSuccess);
  EXPECT_NE(api->GetStatusString(status), nullptr);
  if (status == kCublasSuccess) api->Destroy(handle);
}

}  // namespace
}  // namespace qwenserve
