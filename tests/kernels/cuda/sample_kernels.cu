#include "kernels/cuda/simt/device.h"
#include "tests/kernels/cuda/sample_kernels.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {

struct BlockSum {
  using Args = BlockSumArgs;
  static constexpr int kThreads = 128;
  static constexpr int kMinBlocks = 1;

  QS_DEVICE static void Run(const Args& args) {
    auto* warp_sums = reinterpret_cast<int32_t*>(SharedMemory());
    const int64_t begin = static_cast<int64_t>(BlockIndex().x) * args.count;
    int32_t sum = 0;
    for (int i = ThreadIndex(); i < args.count; i += kThreads) sum += args.values[begin + i];
    QS_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
    if (LaneIndex() == 0) warp_sums[WarpIndex()] = sum;
    SyncThreads();
    if (ThreadIndex() == 0) {
      int32_t total = 0;
      for (int i = 0; i < kThreads / 32; ++i) total += warp_sums[i];
      args.sums[BlockIndex().x] = total;
    }
  }
};

}  // namespace

SampleKernels GetSampleKernels() { return {MakeKernel<BlockSum>("block_sum")}; }

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
