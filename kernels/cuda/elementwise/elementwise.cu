#include "kernels/cuda/elementwise/elementwise_kernels.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {

QS_DEVICE Float4 Load4(const float* at) { return *reinterpret_cast<const Float4*>(at); }
QS_DEVICE void Store4(float* at, const Float4& v) { *reinterpret_cast<Float4*>(at) = v; }
QS_DEVICE void StoreBf16x4(uint16_t* at, const Float4& v) {
  *reinterpret_cast<Word2*>(at) = Word2{PackBf16(v.x, v.y), PackBf16(v.z, v.w)};
}
QS_DEVICE Float4 Add(const Float4& a, const Float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
QS_DEVICE float AddSquares(const Float4& v, float sum) {
  return Fma(v.w, v.w, Fma(v.z, v.z, Fma(v.y, v.y, Fma(v.x, v.x, sum))));
}

// The sum over all threads of the block, for all of them.
template <int kWarps>
QS_DEVICE float BlockSum(float sum) {
  QS_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
  float* by_warp = reinterpret_cast<float*>(SharedMemory());
  if (LaneIndex() == 0) by_warp[WarpIndex()] = sum;
  SyncThreads();
  sum = by_warp[0];
  QS_UNROLL
  for (int warp = 1; warp < kWarps; ++warp) sum += by_warp[warp];
  return sum;
}

QS_DEVICE float InverseRms(float squares, int32_t width, float epsilon) {
  return 1.0f / SquareRoot(squares / static_cast<float>(width) + epsilon);
}

// Limited by the latency of two passages over the row and of the block's sum where rows are few, by
// memory where they are many.
template <int kBlockThreads>
struct RmsNorm {
  using Args = RmsNormArgs;
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kMinBlocks = 2;
  // Units that stay in registers between the passages: up to 8192 elements for 512 threads. What
  // is beyond is read again.
  static constexpr int kKept = 4;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    const int64_t start = int64_t{BlockIndex().x} * args.width;
    if (args.width % 4 == 0) {
      RunBy4(args, start);
    } else {
      RunByOne(args, start);
    }
  }

  // The element that is normalised; adds to the residual, so once for each unit.
  QS_DEVICE static Float4 Take4(const Args& args, int64_t at) {
    const Float4 x = Load4(args.x + at);
    if (args.residual == nullptr) return x;
    const Float4 sum = Add(Load4(args.residual + at), x);
    Store4(args.residual + at, sum);
    return sum;
  }

  QS_DEVICE static void Finish4(const Args& args, int64_t at, int column, const Float4& v,
                                float scale) {
    const Float4 w = Load4(args.weight + column);
    StoreBf16x4(args.out + at,
                {v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w});
  }

  QS_DEVICE static void RunBy4(const Args& args, int64_t start) {
    const int units = args.width / 4;
    QS_UNROLL
    for (int i = 0; i < kKept; ++i) {
      const int unit = ThreadIndex() + i * kThreads;
      // The weight is nobody's result, so it may come before the predecessor is done.
      if (unit < units && unit % 8 == 0) PrefetchL2(args.weight + 4 * unit);
    }
    GridDependencyWait();
    Float4 kept[kKept];
    float sum = 0;
    QS_UNROLL
    for (int i = 0; i < kKept; ++i) {
      const int unit = ThreadIndex() + i * kThreads;
      if (unit < units) {
        kept[i] = Take4(args, start + 4 * unit);
        sum = AddSquares(kept[i], sum);
      }
    }
    for (int unit = ThreadIndex() + kKept * kThreads; unit < units; unit += kThreads) {
      sum = AddSquares(Take4(args, start + 4 * unit), sum);
    }
    const float scale = InverseRms(BlockSum<kThreads / 32>(sum), args.width, args.epsilon);
    QS_UNROLL
    for (int i = 0; i < kKept; ++i) {
      const int unit = ThreadIndex() + i * kThreads;
      if (unit < units) Finish4(args, start + 4 * unit, 4 * unit, kept[i], scale);
    }
    const float* source = args.residual == nullptr ? args.x : args.residual;
    for (int unit = ThreadIndex() + kKept * kThreads; unit < units; unit += kThreads) {
      Finish4(args, start + 4 * unit, 4 * unit, Load4(source + start + 4 * unit), scale);
    }
  }

  QS_DEVICE static void RunByOne(const Args& args, int64_t start) {
    GridDependencyWait();
    float sum = 0;
    for (int i = ThreadIndex(); i < args.width; i += kThreads) {
      float v = args.x[start + i];
      if (args.residual != nullptr) v = args.residual[start + i] += v;
      sum = Fma(v, v, sum);
    }
    const float scale = InverseRms(BlockSum<kThreads / 32>(sum), args.width, args.epsilon);
    const float* source = args.residual == nullptr ? args.x : args.residual;
    for (int i = ThreadIndex(); i < args.width; i += kThreads) {
      args.out[start + i] = FloatToBf16(source[start + i] * scale * args.weight[i]);
    }
  }
};

// exp(-gate) beyond the range of float is infinity, and the result 0.
QS_DEVICE float Silu(float gate) {
  constexpr float kLog2E = 1.44269504f;
  return gate / (1.0f + Exp2Fast(gate * -kLog2E));
}

// Limited by memory.
struct SiluMul {
  using Args = SiluMulArgs;
  static constexpr int kThreads = 128;
  static constexpr int kMinBlocks = 8;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    const int64_t unit = int64_t{BlockIndex().x} * kThreads + ThreadIndex();
    if (unit >= args.units) return;
    if (args.width % 4 == 0) {
      const int64_t per_row = args.width / 4, row = unit / per_row, column = unit % per_row * 4;
      const float* at = args.gate_up + row * 2 * args.width + column;
      const Float4 gate = Load4(at), up = Load4(at + args.width);
      StoreBf16x4(args.out + unit * 4, {Silu(gate.x) * up.x, Silu(gate.y) * up.y,
                                        Silu(gate.z) * up.z, Silu(gate.w) * up.w});
    } else {
      const int64_t row = unit / args.width, column = unit % args.width;
      const float* at = args.gate_up + row * 2 * args.width + column;
      args.out[unit] = FloatToBf16(Silu(at[0]) * at[args.width]);
    }
  }
};

struct GatherRows {
  using Args = GatherRowsArgs;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    const uint16_t* from = args.x + args.rows[BlockIndex().x] * args.width;
    uint16_t* to = args.out + BlockIndex().x * args.width;
    if (args.width % 8 == 0) {
      const Word4* from_words = reinterpret_cast<const Word4*>(from);
      Word4* to_words = reinterpret_cast<Word4*>(to);
      for (int64_t i = ThreadIndex(); i < args.width / 8; i += kThreads)
        to_words[i] = from_words[i];
    } else {
      for (int64_t i = ThreadIndex(); i < args.width; i += kThreads) to[i] = from[i];
    }
  }
};

struct TakeDrawn {
  using Args = TakeDrawnArgs;
  static constexpr int kThreads = 128;
  static constexpr int kMinBlocks = 1;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    const int64_t row = int64_t{BlockIndex().x} * kThreads + ThreadIndex();
    if (row >= args.rows || args.ids[row] >= 0) return;
    const int32_t id = args.drawn[-1 - args.ids[row]];
    args.ids[row] = id < 0 ? 0 : id;
  }
};

}  // namespace

ElementwiseKernels GetElementwiseKernels() {
  return {MakeKernel<RmsNorm<128>>("rms_norm_narrow"), MakeKernel<RmsNorm<512>>("rms_norm_wide"),
          MakeKernel<SiluMul>("silu_mul"), MakeKernel<GatherRows>("gather_rows"),
          MakeKernel<TakeDrawn>("take_drawn")};
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
