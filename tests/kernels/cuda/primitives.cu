#include "kernels/cuda/simt/device.h"
#include "tests/kernels/cuda/primitives.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {

template <int kNumThreads>
struct Primitive {
  using Args = PrimitiveArgs;
  static constexpr int kThreads = kNumThreads;
  static constexpr int kMinBlocks = 1;
};

// out: [blocks in x-y-z order][thread][10].
struct Positions : Primitive<96> {
  QS_DEVICE static void Run(const Args& args) {
    const GridIndex at = BlockIndex(), size = GridSize();
    const uint32_t block = (at.z * size.y + at.y) * size.x + at.x;
    int32_t* out = static_cast<int32_t*>(args.out) + (block * kThreads + ThreadIndex()) * 10;
    out[0] = ThreadIndex();
    out[1] = LaneIndex();
    out[2] = WarpIndex();
    out[3] = BlockThreads();
    out[4] = static_cast<int32_t>(at.x);
    out[5] = static_cast<int32_t>(at.y);
    out[6] = static_cast<int32_t>(at.z);
    out[7] = static_cast<int32_t>(size.x);
    out[8] = static_cast<int32_t>(size.y);
    out[9] = static_cast<int32_t>(size.z);
  }
};

// in: [thread] pairs (value, argument); out: [thread][6].
struct Shuffles : Primitive<64> {
  QS_DEVICE static void Run(const Args& args) {
    const auto* in = static_cast<const int32_t*>(args.in) + 2 * ThreadIndex();
    int32_t* out = static_cast<int32_t*>(args.out) + 6 * ThreadIndex();
    out[0] = Shuffle(in[0], in[1]);
    out[1] = ShuffleXor(in[0], args.count);
    out[2] = ShuffleDown(in[0], args.count);
    out[3] = ShuffleUp(in[0], args.count);
    out[4] = static_cast<int32_t>(Ballot(in[0] > 0));
    out[5] = static_cast<int32_t>(FloatBits(ShuffleXor(static_cast<float>(in[0]), 1)));
  }
};

// in: [thread] uint64; out: [thread][2].
struct WideShuffles : Primitive<32> {
  QS_DEVICE static void Run(const Args& args) {
    const uint64_t value = static_cast<const uint64_t*>(args.in)[ThreadIndex()];
    auto* out = static_cast<uint64_t*>(args.out) + 2 * ThreadIndex();
    out[0] = ShuffleXor(value, 5);
    out[1] = DoubleBits(ShuffleDown(BitsToDouble(value), 9));
  }
};

// Every thread once on each of out: int32 add, uint32 add, int32 max, uint32 max, uint32 or, (pad),
// uint64 add, uint64 max; and the same adds in shared memory, copied to out + 64 bytes.
struct Atomics : Primitive<128> {
  QS_DEVICE static void Run(const Args& args) {
    const uint32_t id = BlockIndex().x * kThreads + static_cast<uint32_t>(ThreadIndex());
    auto* words = static_cast<uint32_t*>(args.out);
    auto* ints = static_cast<int32_t*>(args.out);
    auto* longs = reinterpret_cast<uint64_t*>(words + 6);
    AtomicAdd(ints, -static_cast<int32_t>(id));
    AtomicAdd(words + 1, id);
    AtomicMax(ints + 2, static_cast<int32_t>(id) - 100);
    AtomicMax(words + 3, id * 0x01000000u);
    AtomicOr(words + 4, 1u << (id % 32));
    AtomicAdd(longs, uint64_t{id} << 32);
    AtomicMax(longs + 1, uint64_t{id} << 33);
    auto* shared = reinterpret_cast<uint32_t*>(SharedMemory());
    if (ThreadIndex() == 0) shared[0] = 0;
    SyncThreads();
    AtomicAdd(shared, 3u);
    SyncThreads();
    if (ThreadIndex() == 0) AtomicAdd(words + 16, shared[0]);
    // The last block to come sees what all others wrote.
    if (ThreadIndex() == 0) {
      words[32 + BlockIndex().x] = BlockIndex().x + 1;
      ThreadFence();
      if (AtomicAdd(words + 17, 1u) == GridSize().x - 1) {
        uint32_t sum = 0;
        for (uint32_t i = 0; i < GridSize().x; ++i) sum += words[32 + i];
        words[18] = sum;
      }
    }
  }
};

// Values go around: warp w writes, SyncThreads, reads that of warp w + 1; then pairs of warps
// trade by named barriers; then lanes by SyncWarp. out: [thread][3].
struct Barriers : Primitive<128> {
  QS_DEVICE static void Run(const Args& args) {
    auto* shared = reinterpret_cast<int32_t*>(SharedMemory());
    int32_t* out = static_cast<int32_t*>(args.out) + 3 * ThreadIndex();
    const int thread = ThreadIndex();
    for (int round = 0; round < args.count; ++round) {
      shared[thread] = thread + 1000 * round;
      SyncThreads();
      out[0] = shared[(thread + 32) % kThreads];
      SyncThreads();
      shared[thread] = thread + 2000 * round;
      const int pair = WarpIndex() / 2;
      SyncNamed(1 + pair, 64);
      out[1] = shared[thread ^ 32];
      SyncNamed(3 + pair, 64);
      shared[thread] = thread + 3000 * round;
      SyncWarp();
      out[2] = shared[thread ^ 7];
      SyncWarp();
    }
    SyncThreads();
  }
};

// in: count tiles of 64 x 16 bytes; out: their sum as uint32 words, by a ring of two stages; tiles
// at odd indices are asked for with valid = false.
struct Copies : Primitive<64> {
  QS_DEVICE static void Run(const Args& args) {
    const char* in = static_cast<const char*>(args.in);
    char* mine = SharedMemory() + 16 * ThreadIndex();
    auto start = [&](int tile) {
      if (tile < args.count) {
        CopyAsync16(mine + tile % 2 * 1024, in + (tile * 64 + ThreadIndex()) * 16, tile % 2 == 0);
      }
      CopyAsyncCommit();
    };
    PrefetchL2(in);
    uint32_t sum[4] = {0, 0, 0, 0};
    start(0);
    for (int tile = 0; tile < args.count; ++tile) {
      start(tile + 1);
      CopyAsyncWait<1>();
      SyncThreads();
      // Another thread's part, so that the barrier matters.
      const int other = 63 - ThreadIndex();
      const auto* words =
          reinterpret_cast<const uint32_t*>(SharedMemory() + tile % 2 * 1024 + 16 * other);
      for (int i = 0; i < 4; ++i) sum[i] += words[i];
      SyncThreads();
    }
    auto* out = static_cast<uint32_t*>(args.out) + 4 * (63 - ThreadIndex());
    const Word4 first = LoadStreaming(in + 16 * (63 - ThreadIndex()));
    out[0] = sum[0] + first.x;
    out[1] = sum[1] + first.y;
    out[2] = sum[2] + first.z;
    out[3] = sum[3] + first.w;
    if (ThreadIndex() == 0) {
      static_cast<float*>(args.out)[256] = LoadFromL2(static_cast<const float*>(args.in));
    }
  }
};

// in: 32 rows of 16 bytes; out: [lane][10] = LoadMatrix4, LoadMatrix4Transposed, LoadMatrix2.
struct Matrices : Primitive<32> {
  QS_DEVICE static void Run(const Args& args) {
    auto* rows = reinterpret_cast<Word4*>(SharedMemory());
    rows[ThreadIndex()] = static_cast<const Word4*>(args.in)[ThreadIndex()];
    SyncThreads();
    auto* out = static_cast<uint32_t*>(args.out) + 10 * ThreadIndex();
    uint32_t r[4];
    LoadMatrix4(r, rows + ThreadIndex());
    for (int i = 0; i < 4; ++i) out[i] = r[i];
    LoadMatrix4Transposed(r, rows + ThreadIndex());
    for (int i = 0; i < 4; ++i) out[4 + i] = r[i];
    LoadMatrix2(r, rows + ThreadIndex());
    for (int i = 0; i < 2; ++i) out[8 + i] = r[i];
  }
};

// in: a [16][16] bf16, b [16][8] bf16 (row-major), d [16][8] float; out: a * b + d.
struct Mma : Primitive<32> {
  QS_DEVICE static void Run(const Args& args) {
    const auto* a = static_cast<const uint16_t*>(args.in);
    const uint16_t* b = a + 256;
    const auto* d = reinterpret_cast<const float*>(b + 128);
    const int g = LaneIndex() / 4, t = LaneIndex() % 4;
    uint32_t ra[4], rb[2];
    float rd[4];
    for (int i = 0; i < 4; ++i) {
      const int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
      ra[i] = a[row * 16 + column] | uint32_t{a[row * 16 + column + 1]} << 16;
      rd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    }
    for (int i = 0; i < 2; ++i) {
      const int row = 2 * t + 8 * i;
      rb[i] = b[row * 8 + g] | uint32_t{b[(row + 1) * 8 + g]} << 16;
    }
    MmaBf16(rd, ra, rb);
    auto* out = static_cast<float*>(args.out);
    for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = rd[i];
  }
};

// in: [count][3] floats x, y, z; out: [count][16] words.
struct Floats : Primitive<32> {
  QS_DEVICE static void Run(const Args& args) {
    for (int i = ThreadIndex(); i < args.count; i += kThreads) {
      const float* in = static_cast<const float*>(args.in) + 3 * i;
      uint32_t* out = static_cast<uint32_t*>(args.out) + 16 * i;
      const float x = in[0], y = in[1], z = in[2];
      out[0] = FloatBits(Fma(x, y, z));
      out[1] = FloatBits(SquareRoot(Abs(x)));
      out[2] = FloatBits(Max(x, y));
      out[3] = FloatBits(Min(x, y));
      out[4] = FloatBits(Abs(x));
      out[5] = FloatBits(RoundToEven(x));
      out[6] = FloatToBf16(x);
      out[7] = PackBf16(x, y);
      out[8] = FloatBits(Bf16ToFloat(static_cast<uint16_t>(FloatBits(x) >> 16)));
      out[9] = FloatBits(HalfToFloat(static_cast<uint16_t>(FloatBits(x) >> 16)));
      out[10] = FmaBf16x2(FloatBits(x), FloatBits(y), FloatBits(z));
      out[11] = FloatBits(Exp2Fast(x));
      const double fused = Fma(static_cast<double>(x), static_cast<double>(y), double{z});
      out[12] = static_cast<uint32_t>(DoubleBits(fused) >> 32);
      out[13] = static_cast<uint32_t>(DoubleBits(fused));
      out[14] = static_cast<uint32_t>(DoubleBits(RoundToEven(double{x} * 0.5)) >> 32);
      out[15] = FloatBits(x * y + z);  // two roundings
    }
  }
};

// in: [count][2] uint32; out: [count][8].
struct Integers : Primitive<32> {
  QS_DEVICE static void Run(const Args& args) {
    for (int i = ThreadIndex(); i < args.count; i += kThreads) {
      const uint32_t* in = static_cast<const uint32_t*>(args.in) + 2 * i;
      uint32_t* out = static_cast<uint32_t*>(args.out) + 8 * i;
      const uint32_t x = in[0], y = in[1];
      out[0] = PermuteBytes(x, y, 0x7351);
      out[1] = PermuteBytes(x, y, x & 0x7777);
      out[2] = AndOr<0x000f000fu, 0x43004300u>(x);
      out[3] = static_cast<uint32_t>(PopCount(x));
      out[4] = static_cast<uint32_t>(LeadingZeros(x));
      out[5] = static_cast<uint32_t>(LowestBit(x));
      const uint64_t high = MultiplyHigh(uint64_t{x} << 32 | y, uint64_t{y} << 32 | x);
      out[6] = static_cast<uint32_t>(high >> 32);
      out[7] = static_cast<uint32_t>(high);
    }
  }
};

}  // namespace

PrimitiveKernels GetPrimitiveKernels() {
  return {.positions = MakeKernel<Positions>("positions"),
          .shuffles = MakeKernel<Shuffles>("shuffles"),
          .wide_shuffles = MakeKernel<WideShuffles>("wide_shuffles"),
          .atomics = MakeKernel<Atomics>("atomics"),
          .barriers = MakeKernel<Barriers>("barriers"),
          .copies = MakeKernel<Copies>("copies"),
          .matrices = MakeKernel<Matrices>("matrices"),
          .mma = MakeKernel<Mma>("mma"),
          .floats = MakeKernel<Floats>("floats"),
          .integers = MakeKernel<Integers>("integers")};
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
