// Holds our declarations of NCCL against its own header.
#include <nccl.h>

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "gtest/gtest.h"
#include "kernels/cuda/comm/nccl_api.h"

namespace qwenserve {
namespace {

static_assert(kNcclSuccess == ncclSuccess);
static_assert(kNcclUnhandledCudaError == ncclUnhandledCudaError);
static_assert(kNcclRemoteError == ncclRemoteError);
static_assert(kNcclInProgress == ncclInProgress);
static_assert(kNcclFloat32 == ncclFloat32);
static_assert(kNcclSum == ncclSum);
static_assert(kNcclWindowSymmetric == NCCL_WIN_COLL_SYMMETRIC);
static_assert(sizeof(NcclUniqueId) == sizeof(ncclUniqueId));
static_assert(std::is_trivially_copyable_v<NcclUniqueId>);
static_assert(sizeof(ncclResult_t) == sizeof(int) && sizeof(ncclDataType_t) == sizeof(int) &&
              sizeof(ncclRedOp_t) == sizeof(int));
static_assert(offsetof(NcclConfig, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(NcclConfig, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(NcclConfig, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(NcclConfig, cga_cluster_size) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(offsetof(NcclConfig, min_ctas) == offsetof(ncclConfig_t, minCTAs));
static_assert(offsetof(NcclConfig, max_ctas) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(NcclConfig, net_name) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(NcclConfig, split_share) == offsetof(ncclConfig_t, splitShare));

// Same parameters, but for enums, which are ints, and handles, which are pointers.
template <typename T>
using Plain = std::conditional_t<
    std::is_enum_v<T>, int,
    std::conditional_t<
        std::is_same_v<T, ncclComm_t> || std::is_same_v<T, cudaStream_t> ||
            std::is_same_v<T, ncclWindow_t>,
        void*,
        std::conditional_t<
            std::is_same_v<T, ncclComm_t*> || std::is_same_v<T, ncclWindow_t*>, void**,
            std::conditional_t<
                std::is_same_v<T, ncclUniqueId>, NcclUniqueId,
                std::conditional_t<
                    std::is_same_v<T, ncclUniqueId*>, NcclUniqueId*,
                    std::conditional_t<std::is_same_v<T, ncclConfig_t*>, NcclConfig*,
                                       std::conditional_t<std::is_same_v<T, ncclResult_t*>, int*,
                                                          T>>>>>>>;
template <typename T>
struct Ours;
template <typename R, typename... Args>
struct Ours<R(Args...)> {
  using Type = Plain<R> (*)(Plain<Args>...);
};
#define QS_SAME(name) \
  static_assert(std::is_same_v<decltype(NcclApi::name), Ours<decltype(nccl##name)>::Type>)
QS_SAME(GetVersion);
QS_SAME(GetErrorString);
QS_SAME(GetLastError);
QS_SAME(GetUniqueId);
QS_SAME(CommInitRankConfig);
QS_SAME(CommGetAsyncError);
QS_SAME(CommFinalize);
QS_SAME(CommDestroy);
QS_SAME(CommAbort);
QS_SAME(GroupStart);
QS_SAME(GroupEnd);
QS_SAME(AllReduce);
QS_SAME(AllGather);
QS_SAME(Send);
QS_SAME(Recv);
QS_SAME(MemAlloc);
QS_SAME(MemFree);
QS_SAME(CommWindowRegister);
QS_SAME(CommWindowDeregister);

TEST(NcclHeader, ConfigBeginsAsTheHeaderInitialisesIt) {
  ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  theirs.size = sizeof(NcclConfig);
  theirs.version = kNcclLeastVersion;
  const NcclConfig ours;
  EXPECT_EQ(ours.magic, theirs.magic);
  EXPECT_EQ(ours.blocking, theirs.blocking);
  EXPECT_EQ(ours.cga_cluster_size, theirs.cgaClusterSize);
  EXPECT_EQ(ours.min_ctas, theirs.minCTAs);
  EXPECT_EQ(ours.max_ctas, theirs.maxCTAs);
  EXPECT_EQ(ours.net_name, theirs.netName);
  EXPECT_EQ(ours.split_share, theirs.splitShare);
}

}  // namespace
}  // namespace qwenserve
