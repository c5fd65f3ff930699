#include "kernels/cuda/comm/comm_kernels.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {

QS_DEVICE const float* PartOf(const SumRanksArgs& args, int rank) {
  return rank == args.rank ? args.own : args.parts + rank * args.stride;
}

QS_DEVICE bool Aligned16(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

QS_DEVICE int64_t FirstElement() {
  return static_cast<int64_t>(BlockIndex().x) * BlockThreads() + ThreadIndex();
}
QS_DEVICE int64_t GridThreads() { return static_cast<int64_t>(GridSize().x) * BlockThreads(); }

struct SumRanks {
  using Args = SumRanksArgs;
  static constexpr int kThreads = kCommThreads;
  static constexpr int kMinBlocks = 4;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyWait();
    const bool wide =
        Aligned16(args.parts) && Aligned16(args.own) && Aligned16(args.out) && args.stride % 4 == 0;
    const int64_t fours = wide ? args.count / 4 : 0;
    for (int64_t i = FirstElement(); i < fours; i += GridThreads()) {
      Float4 sum = reinterpret_cast<const Float4*>(PartOf(args, 0))[i];
      for (int r = 1; r < args.size; ++r) {
        const Float4 part = reinterpret_cast<const Float4*>(PartOf(args, r))[i];
        sum.x += part.x;
        sum.y += part.y;
        sum.z += part.z;
        sum.w += part.w;
      }
      reinterpret_cast<Float4*>(args.out)[i] = sum;
    }
    for (int64_t i = 4 * fours + FirstElement(); i < args.count; i += GridThreads()) {
      float sum = PartOf(args, 0)[i];
      for (int r = 1; r < args.size; ++r) sum += PartOf(args, r)[i];
      args.out[i] = sum;
    }
  }
};

struct InterleaveRows {
  using Args = InterleaveRowsArgs;
  static constexpr int kThreads = kCommThreads;
  static constexpr int kMinBlocks = 4;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyWait();
    const int64_t part = args.rows * args.width;
    for (int64_t i = FirstElement(); i < part * args.size; i += GridThreads()) {
      const int64_t rank = i / part, at = i % part;
      const int64_t row = at / args.width, column = at % args.width;
      args.all[(row * args.size + rank) * args.width + column] = args.parts[i];
    }
  }
};

}  // namespace

CommKernels GetCommKernels() {
  return {.sum_ranks = MakeKernel<SumRanks>("sum_ranks"),
          .interleave_rows = MakeKernel<InterleaveRows>("interleave_rows")};
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
