// One warp rotates one head of one row: a lane has elements 2 lane, 2 lane + 1 and their partners
// half a head further. A KV head's warp stores its key and its value.
#include "kernels/cuda/attention/attention_kernels.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {

// Elements i, i + 1, half + i, half + i + 1 of a head; zeros in lanes beyond it.
struct Quad {
  float v[4] = {};
};

QS_DEVICE Quad LoadQuad(const float* head, int i, int half) {
  Quad q;
  if (i < half) {
    const Float2 low = *reinterpret_cast<const Float2*>(head + i);
    const Float2 high = *reinterpret_cast<const Float2*>(head + half + i);
    q = {{low.x, low.y, high.x, high.y}};
  }
  return q;
}

// Lane-wise a chain of fma over the four elements, then lanes 16, 8, 4, 2, 1 apart are added.
QS_DEVICE float SumOfSquares(const Quad& q) {
  float sum = 0;
  QS_UNROLL for (int j = 0; j < 4; ++j) sum = Fma(q.v[j], q.v[j], sum);
  QS_UNROLL for (int mask = 16; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
  return sum;
}

// What is done to a lane's elements of a head.
struct Turn {
  bool has_norm = false;
  Quad norm;
  Float4 cos_sin;  // of elements i and i + 1
  float scale = 1.0f;
};

QS_DEVICE void NormRope(Quad& q, int half, float epsilon, const Turn& to) {
  if (to.has_norm) {
    const float mean = SumOfSquares(q) / static_cast<float>(2 * half);
    const float inverse = 1.0f / SquareRoot(mean + epsilon);
    QS_UNROLL for (int j = 0; j < 4; ++j) q.v[j] = q.v[j] * inverse * to.norm.v[j];
  }
  const Float4& turn = to.cos_sin;
  const float scale = to.scale;
  const Quad x = q;
  q.v[0] = (x.v[0] * turn.x - x.v[2] * turn.y) * scale;
  q.v[1] = (x.v[1] * turn.z - x.v[3] * turn.w) * scale;
  q.v[2] = (x.v[2] * turn.x + x.v[0] * turn.y) * scale;
  q.v[3] = (x.v[3] * turn.z + x.v[1] * turn.w) * scale;
}

QS_DEVICE void StoreBf16(char* row, int i, int half, uint32_t low, uint32_t high) {
  if (i >= half) return;
  *reinterpret_cast<uint32_t*>(row + 2 * i) = low;
  *reinterpret_cast<uint32_t*>(row + 2 * (half + i)) = high;
}

QS_DEVICE bool HasInfiniteBf16(uint32_t pair) {
  return (pair & 0x7f80u) == 0x7f80u || (pair & 0x7f800000u) == 0x7f800000u;
}

// Attention multiplies values of positions that a row does not see by 0, so none may be infinite or
// NaN: the key is NaN instead, and with it what sees it. Likewise with the scales of int8.
QS_DEVICE void StoreBf16Pair(const Quad& key, const Quad& value, int i, int half,
                             const GpuKvLayout& layout, int slot, char* head) {
  uint32_t value_low = PackBf16(value.v[0], value.v[1]);
  uint32_t value_high = PackBf16(value.v[2], value.v[3]);
  uint32_t key_low = PackBf16(key.v[0], key.v[1]);
  uint32_t key_high = PackBf16(key.v[2], key.v[3]);
  if (Ballot(HasInfiniteBf16(value_low) || HasInfiniteBf16(value_high)) != 0) {
    value_low = value_high = 0;
    key_low = key_high = 0x7fff7fffu;
  }
  StoreBf16(head + layout.key_offset(slot), i, half, key_low, key_high);
  StoreBf16(head + layout.value_offset(slot), i, half, value_low, value_high);
}

QS_DEVICE uint16_t PackCodes(float low, float high) {
  const auto a = static_cast<uint32_t>(static_cast<int32_t>(RoundToEven(low)));
  const auto b = static_cast<uint32_t>(static_cast<int32_t>(RoundToEven(high)));
  return static_cast<uint16_t>((a & 0xffu) | (b & 0xffu) << 8);
}

// As kernels/README.md says of int8 KV: codes of amax / 127; all 0 below 1e-30 and where an element
// is no finite number. Returns the scale, NaN for the latter.
QS_DEVICE float StoreInt8(const Quad& x, int i, int half, char* row) {
  float amax = 0;
  bool finite = true;
  QS_UNROLL for (int j = 0; j < 4; ++j) {
    finite = finite && Abs(x.v[j]) <= 3.40282347e38f;
    amax = Max(amax, Abs(x.v[j]));
  }
  QS_UNROLL for (int mask = 16; mask > 0; mask /= 2) amax = Max(amax, ShuffleXor(amax, mask));
  finite = Ballot(!finite) == 0;
  const bool sound = finite && amax >= 1e-30f;
  const float inverse = sound ? 127.0f / amax : 0.0f;
  if (i < half) {
    uint16_t low = 0, high = 0;
    if (sound) {
      low = PackCodes(x.v[0] * inverse, x.v[1] * inverse);
      high = PackCodes(x.v[2] * inverse, x.v[3] * inverse);
    }
    *reinterpret_cast<uint16_t*>(row + i) = low;
    *reinterpret_cast<uint16_t*>(row + half + i) = high;
  }
  if (!finite) return BitsToFloat(0x7fffffffu);
  return sound ? amax / 127.0f : 0.0f;
}

struct NormRopeStore {
  using Args = NormRopeStoreArgs;
  static constexpr int kThreads = kNormRopeThreads;
  static constexpr int kMinBlocks = 8;

  QS_DEVICE static void Run(const Args& args) {
    const GpuHeads& heads = args.heads;
    const int heads_per_row = heads.num_query_heads + heads.num_kv_heads;
    const int warp = static_cast<int>(BlockIndex().x) * (kThreads / 32) + WarpIndex();
    const int row = warp / heads_per_row, head = warp - row * heads_per_row;
    const bool is_query = head < heads.num_query_heads;
    const int half = heads.head_dim / 2;
    const int i = 2 * LaneIndex();
    // The step's lists, tables and weights are no kernel's results: read while the predecessor
    // runs.
    const int position = row < args.num_rows ? LoadFromL2(args.positions + row) : -1;
    Turn turn;
    char* cache = nullptr;
    if (position >= 0) {
      turn = LoadTurn(args, row, position, is_query, i, half);
      if (!is_query) cache = CacheOf(args, row, position, head - heads.num_query_heads);
    }
    GridDependencyWait();
    // Only now: what starts behind it may count on everything before it.
    GridDependencyTrigger();
    if (position < 0) return;
    float* x = args.qkv + static_cast<int64_t>(row) * heads.qkv_width() + head * heads.head_dim;
    Quad quad = LoadQuad(x, i, half);
    if (is_query) {
      NormRope(quad, half, args.epsilon, turn);
      if (i < half) {
        *reinterpret_cast<Float2*>(x + i) = {quad.v[0], quad.v[1]};
        *reinterpret_cast<Float2*>(x + half + i) = {quad.v[2], quad.v[3]};
      }
      return;
    }
    const Quad value = LoadQuad(x + heads.num_kv_heads * heads.head_dim, i, half);
    NormRope(quad, half, args.epsilon, turn);
    StoreKeyAndValue(args, position, cache, quad, value);
  }

  QS_DEVICE static Turn LoadTurn(const Args& args, int row, int position, bool is_query, int i,
                                 int half) {
    const int table = args.rope_tables == nullptr ? 0 : LoadFromL2(args.rope_tables + row);
    const float* cos_sin = args.rope[table] + static_cast<int64_t>(position) * args.heads.head_dim;
    const float* norm = is_query ? args.q_norm : args.k_norm;
    Turn turn;
    turn.has_norm = norm != nullptr;
    if (turn.has_norm) turn.norm = LoadQuad(norm, i, half);
    if (i < half) turn.cos_sin = *reinterpret_cast<const Float4*>(cos_sin + 2 * i);
    if (is_query && args.query_scales != nullptr) turn.scale = LoadFromL2(args.query_scales + row);
    return turn;
  }

  // The head's part of the block of a position.
  QS_DEVICE static char* CacheOf(const Args& args, int row, int position, int kv_head) {
    const int64_t entry =
        int64_t{LoadFromL2(args.sequences + row)} * args.max_blocks + position / kKvBlockSize;
    return args.kv +
           LoadFromL2(args.block_tables + entry) *
               args.layout.block_bytes(args.heads.num_kv_heads) +
           kv_head * args.layout.head_bytes();
  }

  QS_DEVICE static void StoreKeyAndValue(const Args& args, int position, char* head,
                                         const Quad& key, const Quad& value) {
    const int slot = position % kKvBlockSize;
    const int half = args.heads.head_dim / 2;
    const int i = 2 * LaneIndex();
    if (!args.layout.int8) {
      StoreBf16Pair(key, value, i, half, args.layout, slot, head);
      return;
    }
    float key_scale = StoreInt8(key, i, half, head + args.layout.key_offset(slot));
    float value_scale = StoreInt8(value, i, half, head + args.layout.value_offset(slot));
    if (value_scale != value_scale) {
      key_scale = value_scale;
      value_scale = 0;
    }
    if (LaneIndex() != 0) return;
    *reinterpret_cast<float*>(head + args.layout.key_scale_offset(slot)) = key_scale;
    *reinterpret_cast<float*>(head + args.layout.value_scale_offset(slot)) = value_scale;
  }
};

}  // namespace

void AddNormRopeStore(AttentionKernels& kernels) {
  kernels.norm_rope_store = MakeKernel<NormRopeStore>("norm_rope_store");
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
