// Everything about weights but the products: packing, reading back, embedding; and products with
// float weights, which are for small models only.
#include "kernels/cuda/elementwise/elementwise_kernels.h"
#include "kernels/cuda/gemm/fragments.cuh"
#include "kernels/cuda/gemm/gemm_kernels.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {

QS_DEVICE int64_t GlobalThread() {
  return static_cast<int64_t>(BlockIndex().x) * BlockThreads() + ThreadIndex();
}

// Where the scale and the zero point of an output are, for the group of `input`.
QS_DEVICE int64_t ScaleIndex(const FragmentWeight& weight, int64_t row, int input) {
  int group = GroupOfEntry(input / kEntryInputs, weight.group_magic);
  if (group >= weight.groups) group = weight.groups - 1;
  return (row / kTileRows * weight.groups + group) * kTileRows + row % kTileRows;
}

template <FragmentFormat kFormat>
QS_DEVICE int ZeroPoint(const FragmentWeight& weight, int64_t scale_index) {
  if (weight.zeros != nullptr) return weight.zeros[scale_index];
  return kFormat == FragmentFormat::kInt8 ? 128 : 8;
}

template <FragmentFormat kFormat>
QS_DEVICE float ReadElement(const FragmentWeight& weight, int64_t row, int input) {
  const UnitSlot slot =
      SlotOfElement(kFormat, static_cast<int>(row % kTileRows), input % UnitInputs(kFormat));
  const uint8_t* lane =
      weight.data + UnitOffset(kFormat, weight.granules, row, input) + slot.lane * kLaneBytes;
  if constexpr (!IsQuantizedFragment(kFormat)) {
    const uint16_t bits = reinterpret_cast<const uint16_t*>(lane)[slot.index];
    return kFormat == FragmentFormat::kBf16 ? Bf16ToFloat(bits) : HalfToFloat(bits);
  } else {
    const int64_t at = ScaleIndex(weight, row, input);
    int code = lane[slot.index * ElementBits(kFormat) / 8];
    if constexpr (kFormat == FragmentFormat::kInt4) code = code >> (slot.index % 2 * 4) & 15;
    return HalfToFloat(weight.scales[at]) *
           static_cast<float>(code - ZeroPoint<kFormat>(weight, at));
  }
}

// One output a warp: lane l has the inputs l, l + 32, ..., ascending by fma; lanes are added as a
// butterfly.
struct LinearF32 {
  using Args = LinearF32Args;
  static constexpr int kThreads = kF32WarpsPerBlock * kLanes;
  static constexpr int kMinBlocks = 2;
  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    const int output = static_cast<int>(BlockIndex().x) * kF32WarpsPerBlock + WarpIndex();
    if (output >= args.out_features) return;
    const int first = static_cast<int>(BlockIndex().y) * kF32RowsPerBlock;
    const float* weight = args.weight + static_cast<int64_t>(output) * args.in_features;
    const uint16_t* x[kF32RowsPerBlock];
    float sum[kF32RowsPerBlock];
    QS_UNROLL
    for (int r = 0; r < kF32RowsPerBlock; ++r) {
      const int row = first + r < args.rows ? first + r : args.rows - 1;
      x[r] = args.x + static_cast<int64_t>(row) * args.in_features;
      sum[r] = 0.0f;
    }
    for (int i = LaneIndex(); i < args.in_features; i += kLanes) {
      const float w = weight[i];
      QS_UNROLL
      for (int r = 0; r < kF32RowsPerBlock; ++r) sum[r] = Fma(w, Bf16ToFloat(x[r][i]), sum[r]);
    }
    QS_UNROLL
    for (int r = 0; r < kF32RowsPerBlock; ++r) {
      QS_UNROLL
      for (int mask = kLanes / 2; mask > 0; mask /= 2) sum[r] = sum[r] + ShuffleXor(sum[r], mask);
      if (LaneIndex() == 0 && first + r < args.rows) {
        const float bias = args.bias == nullptr ? 0.0f : args.bias[output];
        args.out[static_cast<int64_t>(first + r) * args.out_features + output] = sum[r] + bias;
      }
    }
  }
};

struct GatherInputs {
  using Args = GatherInputsArgs;
  static constexpr int kThreads = kPlainThreads;
  static constexpr int kMinBlocks = 4;
  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    const int64_t row = BlockIndex().x;
    for (int i = ThreadIndex(); i < args.out_inputs; i += kThreads) {
      int from = i < args.inputs ? i : -1;
      if (from >= 0 && args.order != nullptr) from = args.order[i];
      const bool has = from >= 0 && from < args.in_features;
      args.out[row * args.out_inputs + i] =
          has ? args.x[row * args.in_features + from] : uint16_t{0};
    }
  }
};

template <FragmentFormat kFormat, bool kPlain>
struct Embed {
  using Args = EmbedArgs;
  static constexpr int kThreads = kPlainThreads;
  static constexpr int kMinBlocks = 4;
  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    float* out = args.out + static_cast<int64_t>(BlockIndex().x) * args.in_features;
    const int64_t row = args.ids[BlockIndex().x] - args.first_id;
    const bool present = row >= 0 && row < args.weight.out_features;
    if (!present || args.order != nullptr) {
      for (int i = ThreadIndex(); i < args.in_features; i += kThreads) out[i] = 0.0f;
    }
    if (!present) return;
    SyncThreads();
    for (int i = ThreadIndex(); i < args.inputs; i += kThreads) {
      const int to = args.order == nullptr ? i : args.order[i];
      if (to < 0 || to >= args.in_features) continue;
      if constexpr (kPlain) {
        out[to] = args.plain[row * args.in_features + i];
      } else {
        out[to] = ReadElement<kFormat>(args.weight, row, i);
      }
    }
  }
};

// v[i] of lane t becomes v[t] of lane i, among four lanes.
QS_DEVICE void Transpose4(uint32_t v[4]) {
  const int t = LaneIndex() % 4;
  QS_UNROLL
  for (int bit = 1; bit < 4; bit *= 2) {
    QS_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const bool upper = (t & bit) != 0;
      const uint32_t other = ShuffleXor(upper ? v[i] : v[i + bit], bit);
      (upper ? v[i] : v[i + bit]) = other;
    }
  }
}

// A unit a warp. Limited by memory: lanes swap what they have until each has 16 bytes of one row.
template <FragmentFormat kFormat>
struct Unpack {
  using Args = UnpackArgs;
  static constexpr int kThreads = kPlainThreads;
  static constexpr int kMinBlocks = 4;
  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    constexpr int kUnits = GranuleInputs(kFormat) / UnitInputs(kFormat);
    const int64_t unit = GlobalThread() / kLanes, units = args.weight.granules * int64_t{kUnits};
    if (unit >= args.weight.tiles * units) return;
    const int lane = LaneIndex();
    const int64_t tile_row = unit / units * kTileRows;
    const int first = static_cast<int>(unit % units) * UnitInputs(kFormat);
    const Word4 words = LoadStreaming(args.weight.data + unit * kUnitBytes + lane * kLaneBytes);
    QS_UNROLL
    for (int s = 0; s < UnitInputs(kFormat) / 16; ++s) {
      uint32_t v[4];
      Elements(args, words, s, tile_row + lane / 4, first + s * 16, v);
      // A row's first eight inputs, its others, and the same eight rows on: one for each lane.
      const uint32_t second = v[1];
      v[1] = v[2];
      v[2] = second;
      Transpose4(v);
      Store(args, tile_row + lane / 4 + lane % 4 / 2 * 8, first + s * 16 + lane % 2 * 8, v);
    }
  }

 private:
  // Step s of the unit in the order of the tensor cores' registers. row: of the even registers.
  QS_DEVICE static void Elements(const Args& args, const Word4& words, int s, int64_t row,
                                 int input, uint32_t v[4]) {
    ZeroTerms zeros;
    float scale[2] = {1.0f, 1.0f};
    if constexpr (IsQuantizedFragment(kFormat)) {
      QS_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int64_t at = ScaleIndex(args.weight, row + 8 * h, input);
        zeros.of[h] = ZeroTerm(kFormat, ZeroPoint<kFormat>(args.weight, at));
        scale[h] = HalfToFloat(args.weight.scales[at]);
      }
    }
    uint32_t a[FragmentTerms(kFormat)][4];
    Fragment<kFormat>(words, s, zeros, a);
    QS_UNROLL
    for (int r = 0; r < 4; ++r) {
      v[r] = a[0][r];  // of fp16: the higher term is what rounding gives
      if constexpr (IsQuantizedFragment(kFormat)) {
        v[r] = PackBf16(scale[r % 2] * BitsToFloat(v[r] << 16),
                        scale[r % 2] * BitsToFloat(v[r] & 0xffff0000u));
      }
    }
  }

  // Eight elements of a row.
  QS_DEVICE static void Store(const Args& args, int64_t row, int input, const uint32_t v[4]) {
    if (row >= args.weight.out_features) return;
    uint16_t* out = args.out + row * args.in_features;
    if (args.order == nullptr && args.in_features % 8 == 0) {
      if (input < args.in_features) {
        *reinterpret_cast<Word4*>(out + input) = Word4{v[0], v[1], v[2], v[3]};
      }
      return;
    }
    QS_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (input + i >= args.inputs) continue;
      const int to = args.order == nullptr ? input + i : args.order[input + i];
      if (to >= 0 && to < args.in_features)
        out[to] = static_cast<uint16_t>(v[i / 2] >> (i % 2 * 16));
    }
  }
};

struct UnpackPlain {
  using Args = UnpackArgs;
  static constexpr int kThreads = kPlainThreads;
  static constexpr int kMinBlocks = 4;
  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    const int64_t at = GlobalThread();
    if (at < static_cast<int64_t>(args.weight.out_features) * args.in_features) {
      args.out[at] = FloatToBf16(args.plain[at]);
    }
  }
};

// A lane's 16 bytes a thread.
template <FragmentFormat kFormat>
struct Repack {
  using Args = RepackArgs;
  static constexpr int kThreads = kPlainThreads;
  static constexpr int kMinBlocks = 2;
  QS_DEVICE static void Run(const Args& args) {
    constexpr int kUnits = GranuleInputs(kFormat) / UnitInputs(kFormat);
    constexpr int kBits = ElementBits(kFormat), kPerWord = 32 / kBits;
    const int64_t unit = GlobalThread() / kLanes, units = args.granules * int64_t{kUnits};
    const int64_t tile = unit / units;
    if (tile * kTileRows >= args.num_rows) return;
    const int first = static_cast<int>(unit % units) * UnitInputs(kFormat);
    uint32_t words[4] = {0, 0, 0, 0};
    QS_UNROLL
    for (int i = 0; i < LaneElements(kFormat); ++i) {
      const UnitElement element = ElementOfLane(kFormat, LaneIndex(), i);
      const int64_t row = tile * kTileRows + element.row;
      const int input = first + element.input;
      if (row >= args.num_rows || input >= args.inputs) continue;
      const int64_t at = row * args.inputs + input;
      const uint32_t bits = kBits == 16 ? static_cast<const uint16_t*>(args.rows)[at]
                                        : static_cast<const uint8_t*>(args.rows)[at];
      words[i / kPerWord] |= bits << (i % kPerWord * kBits);
    }
    *reinterpret_cast<Word4*>(args.data + unit * kUnitBytes + LaneIndex() * kLaneBytes) =
        Word4{words[0], words[1], words[2], words[3]};
  }
};

// A scale a thread.
struct RepackScales {
  using Args = RepackScalesArgs;
  static constexpr int kThreads = kPlainThreads;
  static constexpr int kMinBlocks = 4;
  QS_DEVICE static void Run(const Args& args) {
    const int64_t to = GlobalThread();
    const int64_t tile = to / kTileRows / args.groups, group = to / kTileRows % args.groups;
    if (tile * kTileRows >= args.num_rows) return;
    const int64_t row = tile * kTileRows + to % kTileRows, from = row * args.groups + group;
    args.packed_scales[to] = row < args.num_rows ? args.scales[from] : uint16_t{0};
    if (args.zeros != nullptr) {
      args.packed_zeros[to] = row < args.num_rows ? args.zeros[from] : uint8_t{0};
    }
  }
};

}  // namespace

GemmKernels GetGemmKernels() {
  GemmKernels kernels;
  kernels.linear[0] = GetLinearBf16Kernels();
  kernels.linear[1] = GetLinearF16Kernels();
  kernels.linear[2] = GetLinearInt8Kernels();
  kernels.linear[3] = GetLinearInt4Kernels();
  kernels.embed[0] = MakeKernel<Embed<FragmentFormat::kBf16, false>>("embed_bf16");
  kernels.embed[1] = MakeKernel<Embed<FragmentFormat::kF16, false>>("embed_f16");
  kernels.embed[2] = MakeKernel<Embed<FragmentFormat::kInt8, false>>("embed_int8");
  kernels.embed[3] = MakeKernel<Embed<FragmentFormat::kInt4, false>>("embed_int4");
  kernels.embed[4] = MakeKernel<Embed<FragmentFormat::kBf16, true>>("embed_f32");
  kernels.unpack[0] = MakeKernel<Unpack<FragmentFormat::kBf16>>("unpack_bf16");
  kernels.unpack[1] = MakeKernel<Unpack<FragmentFormat::kF16>>("unpack_f16");
  kernels.unpack[2] = MakeKernel<Unpack<FragmentFormat::kInt8>>("unpack_int8");
  kernels.unpack[3] = MakeKernel<Unpack<FragmentFormat::kInt4>>("unpack_int4");
  kernels.unpack[4] = MakeKernel<UnpackPlain>("unpack_f32");
  kernels.repack_16bit = MakeKernel<Repack<FragmentFormat::kBf16>>("repack_16bit");
  kernels.repack_int8 = MakeKernel<Repack<FragmentFormat::kInt8>>("repack_int8");
  kernels.repack_int4 = MakeKernel<Repack<FragmentFormat::kInt4>>("repack_int4");
  kernels.repack_scales = MakeKernel<RepackScales>("repack_scales");
  kernels.linear_f32 = MakeKernel<LinearF32>("linear_f32");
  kernels.gather_inputs = MakeKernel<GatherInputs>("gather_inputs");
  kernels.silu_mul = GetElementwiseKernels().silu_mul;
  return kernels;
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
