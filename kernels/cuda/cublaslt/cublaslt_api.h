#ifndef QWENSERVE_KERNELS_CUDA_CUBLASLT_CUBLASLT_API_H_
#define QWENSERVE_KERNELS_CUDA_CUBLASLT_CUBLASLT_API_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace qwenserve {

// What we use of libcublasLt, as functions found at run time: an install that multiplies by its own
// kernels needs no cuBLAS, and neither does the build. Values and layouts are those of cublasLt.h
// 13.0 (NVIDIA, its binary interface), held against that header by a test. Results are
// cublasStatus_t, 0 for success.
inline constexpr int kCublasSuccess = 0;
inline constexpr int kCublasCompute32F = 68;     // cublasComputeType_t
inline constexpr int kCudaF32 = 0;               // cudaDataType_t
inline constexpr int kCudaBf16 = 14;             // cudaDataType_t
inline constexpr int32_t kCublasTransposed = 1;  // cublasOperation_t
inline constexpr uint32_t kCublasEpilogueBias = 4;
// CUBLASLT_MATMUL_DESC_*.
inline constexpr int kCublasDescTransA = 3;
inline constexpr int kCublasDescEpilogue = 7;
inline constexpr int kCublasDescBiasPointer = 8;
// CUBLASLT_MATMUL_PREF_*.
inline constexpr int kCublasPrefWorkspace = 1;
inline constexpr int kCublasPrefReductions = 3;
inline constexpr int kCublasPrefAlignmentA = 5;  // B, C and D follow
// CUBLASLT_REDUCTION_SCHEME_*: partial sums are kept apart and added by a kernel of its own.
inline constexpr uint32_t kCublasReductionComputeType = 2;
inline constexpr uint32_t kCublasReductionOutputType = 4;

// cublasLtMatmulAlgo_t: one way to do a product, for one version of the library and one make of
// GPU.
struct CublasLtAlgo {
  uint64_t data[8] = {};
};

struct CublasLtHeuristic {
  CublasLtAlgo algo;
  size_t workspace_bytes = 0;
  int state = 0;
  float waves = 0;
  int reserved[4] = {};
};

struct CublasLtApi {
  size_t (*GetVersion)() = nullptr;
  const char* (*GetStatusString)(int status) = nullptr;
  int (*Create)(void** handle) = nullptr;
  int (*Destroy)(void* handle) = nullptr;
  int (*DescCreate)(void** desc, int compute_type, int scale_type) = nullptr;
  int (*DescDestroy)(void* desc) = nullptr;
  int (*DescSet)(void* desc, int attribute, const void* value, size_t bytes) = nullptr;
  int (*LayoutCreate)(void** layout, int type, uint64_t rows, uint64_t columns,
                      int64_t leading) = nullptr;
  int (*LayoutDestroy)(void* layout) = nullptr;
  int (*PreferenceCreate)(void** preference) = nullptr;
  int (*PreferenceDestroy)(void* preference) = nullptr;
  int (*PreferenceSet)(void* preference, int attribute, const void* value, size_t bytes) = nullptr;
  int (*GetHeuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d,
                      void* preference, int asked, CublasLtHeuristic* results,
                      int* returned) = nullptr;
  int (*Matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout,
                const void* b, void* b_layout, const void* beta, const void* c, void* c_layout,
                void* d, void* d_layout, const CublasLtAlgo* algo, void* workspace,
                size_t workspace_bytes, void* stream) = nullptr;
};

// Loads libcublasLt.so.MAJOR as the loader of programs finds it; it stays loaded.
// FAILED_PRECONDITION, saying what to install, when there is none or it lacks something.
absl::StatusOr<CublasLtApi> LoadCublasLt(int cuda_major);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_CUBLASLT_CUBLASLT_API_H_
