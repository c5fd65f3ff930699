#ifndef QWENSERVE_KERNELS_CUDA_COMM_NCCL_API_H_
#define QWENSERVE_KERNELS_CUDA_COMM_NCCL_API_H_

#include <climits>
#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// What we use of libnccl.so.2, as functions found at run time: an install with one GPU needs no
// NCCL, and neither does the build. Values and layouts are those of nccl.h 2.28.9 (NVIDIA, its
// binary interface), held against that header by a test. Results are ncclResult_t.
inline constexpr int kNcclSuccess = 0;
inline constexpr int kNcclUnhandledCudaError = 1;
inline constexpr int kNcclRemoteError = 6;
inline constexpr int kNcclInProgress = 7;
inline constexpr int kNcclFloat32 = 7;          // ncclDataType_t
inline constexpr int kNcclSum = 0;              // ncclRedOp_t
inline constexpr int kNcclWindowSymmetric = 1;  // NCCL_WIN_COLL_SYMMETRIC
// NCCL_VERSION_CODE of the oldest library that can do without: CommInitRankConfig with splitShare.
inline constexpr int kNcclLeastVersion = 21800;

using NcclComm = void*;
using NcclWindow = void*;
using NcclStream = void*;  // cudaStream_t

struct NcclUniqueId {
  char bytes[128];
};

// ncclConfig_t as of 2.18: later libraries take it and leave their further settings as they are.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned int magic = 0xcafebeef;
  unsigned int version = kNcclLeastVersion;
  int blocking = INT_MIN;  // INT_MIN: not set
  int cga_cluster_size = INT_MIN;
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* net_name = nullptr;
  int split_share = INT_MIN;
};

struct NcclApi {
  int (*GetVersion)(int* version) = nullptr;
  const char* (*GetErrorString)(int result) = nullptr;
  const char* (*GetLastError)(NcclComm comm) = nullptr;
  int (*GetUniqueId)(NcclUniqueId* id) = nullptr;
  int (*CommInitRankConfig)(NcclComm* comm, int size, NcclUniqueId id, int rank,
                            NcclConfig* config) = nullptr;
  int (*CommGetAsyncError)(NcclComm comm, int* result) = nullptr;
  int (*CommFinalize)(NcclComm comm) = nullptr;
  int (*CommDestroy)(NcclComm comm) = nullptr;
  int (*CommAbort)(NcclComm comm) = nullptr;
  int (*GroupStart)() = nullptr;
  int (*GroupEnd)() = nullptr;
  int (*AllReduce)(const void* from, void* to, size_t count, int type, int op, NcclComm comm,
                   NcclStream stream) = nullptr;
  int (*AllGather)(const void* from, void* to, size_t count, int type, NcclComm comm,
                   NcclStream stream) = nullptr;
  int (*Send)(const void* from, size_t count, int type, int peer, NcclComm comm,
              NcclStream stream) = nullptr;
  int (*Recv)(void* to, size_t count, int type, int peer, NcclComm comm,
              NcclStream stream) = nullptr;
  // All null in a library before 2.27.
  int (*MemAlloc)(void** memory, size_t bytes) = nullptr;
  int (*MemFree)(void* memory) = nullptr;
  int (*CommWindowRegister)(NcclComm comm, void* memory, size_t bytes, NcclWindow* window,
                            int flags) = nullptr;
  int (*CommWindowDeregister)(NcclComm comm, NcclWindow window) = nullptr;

  bool has_windows() const { return CommWindowRegister != nullptr; }
};

// Loads the library; it stays loaded. `library`: its file; a folder that has it, also as pip's
// packages have it (FOLDER/nvidia/nccl/lib); or empty, for what the loader of programs finds.
// FAILED_PRECONDITION, saying what to install, when there is none or it is too old.
absl::StatusOr<NcclApi> LoadNccl(const std::string& library);

// 22809 as "2.28.9".
std::string NcclVersionName(int version);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_COMM_NCCL_API_H_
