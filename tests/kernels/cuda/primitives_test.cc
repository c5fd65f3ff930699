// Every function of device.h against its definition, on the emulation and on a GPU if there is one.
#include "tests/kernels/cuda/primitives.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cuda/runtime/gpu_device.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

struct Target {
  std::unique_ptr<GpuDevice> device;
  PrimitiveKernels kernels;
};

enum class Where { kEmulation, kGpu };

class PrimitivesTest : public testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (GetParam() == Where::kEmulation) {
      device_ = MakeSimtDevice(17);
      kernels_ = on_simt::GetPrimitiveKernels();
      return;
    }
#ifdef QS_WITH_CUDA
    auto device = MakeCudaDevice(0);
    if (absl::IsNotFound(device.status())) GTEST_SKIP() << device.status().message();
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    kernels_ = on_cuda::GetPrimitiveKernels();
#else
    GTEST_SKIP() << "this build is without CUDA";
#endif
  }

  // Runs `kernel` with a copy of `in`; returns `out_count` values, zeros before.
  template <typename Out, typename In>
  std::vector<Out> Run(const GpuKernel& kernel, LaunchShape shape, const std::vector<In>& in,
                       size_t out_count, int32_t count = 0) {
    const size_t in_bytes = in.size() * sizeof(In), out_bytes = out_count * sizeof(Out);
    PrimitiveArgs args;
    void* device_in = device_->Allocate(std::max<size_t>(in_bytes, 16)).value();
    args.in = device_in;
    args.out = device_->Allocate(out_bytes).value();
    args.count = count;
    device_->CopyToDevice(device_in, in.data(), in_bytes, GpuStream::kCompute);
    device_->Fill(args.out, 0, out_bytes, GpuStream::kCompute);
    device_->Launch(kernel, shape, args);
    std::vector<Out> out(out_count);
    device_->CopyToHost(out.data(), args.out, out_bytes, GpuStream::kCompute);
    EXPECT_TRUE(device_->Synchronize(absl::Seconds(10)).ok());
    device_->Free(device_in);
    device_->Free(args.out);
    return out;
  }

  std::unique_ptr<GpuDevice> device_;
  PrimitiveKernels kernels_;
  std::mt19937 random_{5};
};

TEST_P(PrimitivesTest, Positions) {
  const auto out = Run<int32_t, int32_t>(kernels_.positions,
                                         {.grid_x = 3, .grid_y = 2, .grid_z = 4}, {}, 24 * 96 * 10);
  for (int block = 0; block < 24; ++block) {
    for (int thread = 0; thread < 96; ++thread) {
      const std::vector<int32_t> expected = {thread,        thread % 32, thread / 32, 96, block % 3,
                                             block / 3 % 2, block / 6,   3,           2,  4};
      const auto at = out.begin() + (block * 96 + thread) * 10;
      ASSERT_EQ(std::vector<int32_t>(at, at + 10), expected);
    }
  }
}

TEST_P(PrimitivesTest, ShufflesAndBallot) {
  std::vector<int32_t> in(128);
  for (int i = 0; i < 64; ++i) {
    in[2 * i] = static_cast<int32_t>(random_() % 1000) - 500;
    in[2 * i + 1] = static_cast<int32_t>(random_() % 32);
  }
  for (int delta : {0, 1, 3, 16, 31}) {
    const auto out = Run<int32_t>(kernels_.shuffles, {}, in, 64 * 6, delta);
    for (int i = 0; i < 64; ++i) {
      const int warp = i / 32 * 32, lane = i % 32;
      auto value = [&](int l) { return in[2 * (warp + l)]; };
      uint32_t ballot = 0;
      for (int l = 0; l < 32; ++l) ballot |= static_cast<uint32_t>(value(l) > 0) << l;
      ASSERT_EQ(out[6 * i], value(in[2 * i + 1]));
      ASSERT_EQ(out[6 * i + 1], value(lane ^ delta));
      ASSERT_EQ(out[6 * i + 2], value(lane + delta < 32 ? lane + delta : lane));
      ASSERT_EQ(out[6 * i + 3], value(lane >= delta ? lane - delta : lane));
      ASSERT_EQ(static_cast<uint32_t>(out[6 * i + 4]), ballot);
      ASSERT_EQ(std::bit_cast<float>(out[6 * i + 5]), static_cast<float>(value(lane ^ 1)));
    }
  }
}

TEST_P(PrimitivesTest, ShufflesOfEightBytes) {
  std::vector<uint64_t> in(32);
  for (uint64_t& value : in) value = uint64_t{random_() >> 2} << 32 | random_();
  const auto out = Run<uint64_t>(kernels_.wide_shuffles, {}, in, 64);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(out[2 * i], in[i ^ 5]);
    EXPECT_EQ(out[2 * i + 1], in[i + 9 < 32 ? i + 9 : i]);
  }
}

TEST_P(PrimitivesTest, AtomicsAndTheLastBlock) {
  constexpr uint32_t kBlocks = 6, kIds = kBlocks * 128;
  const auto out =
      Run<uint32_t, int>(kernels_.atomics, {.grid_x = kBlocks, .shared_bytes = 4}, {}, 64);
  const uint32_t sum = kIds * (kIds - 1) / 2;
  EXPECT_EQ(out[0], 0u - sum);
  EXPECT_EQ(out[1], sum);
  EXPECT_EQ(out[2], kIds - 1 - 100);
  EXPECT_EQ(out[3], 0xff000000u);
  EXPECT_EQ(out[4], ~0u);
  EXPECT_EQ(out[6], 0u);
  EXPECT_EQ(out[7], sum);
  EXPECT_EQ(out[8], 0u);
  EXPECT_EQ(out[9], (kIds - 1) * 2);
  EXPECT_EQ(out[16], 3 * kIds);
  EXPECT_EQ(out[17], kBlocks);
  EXPECT_EQ(out[18], kBlocks * (kBlocks + 1) / 2);
}

TEST_P(PrimitivesTest, Barriers) {
  constexpr int kRounds = 20;
  const auto out =
      Run<int32_t, int>(kernels_.barriers, {.shared_bytes = 512}, {}, 128 * 3, kRounds);
  for (int i = 0; i < 128; ++i) {
    EXPECT_EQ(out[3 * i], (i + 32) % 128 + 1000 * (kRounds - 1));
    EXPECT_EQ(out[3 * i + 1], (i ^ 32) + 2000 * (kRounds - 1));
    EXPECT_EQ(out[3 * i + 2], (i ^ 7) + 3000 * (kRounds - 1));
  }
}

TEST_P(PrimitivesTest, AsynchronousCopies) {
  constexpr int kTiles = 7;
  std::vector<uint32_t> in(kTiles * 256);
  for (uint32_t& word : in) word = random_() & 0x3fffffffu;
  const auto out = Run<uint32_t>(kernels_.copies, {.shared_bytes = 2048}, in, 257, kTiles);
  for (size_t i = 0; i < 256; ++i) {
    uint32_t sum = in[i];
    for (size_t tile = 0; tile < kTiles; tile += 2) sum += in[tile * 256 + i];
    ASSERT_EQ(out[i], sum) << i;
  }
  EXPECT_EQ(out[256], in[0]);
}

TEST_P(PrimitivesTest, LoadMatrix) {
  std::vector<uint16_t> in(32 * 8);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i);
  const auto out = Run<uint32_t>(kernels_.matrices, {.shared_bytes = 512}, in, 320);
  auto element = [&](int matrix, int row, int column) -> uint32_t {
    return in[static_cast<size_t>((matrix * 8 + row) * 8 + column)];
  };
  for (int lane = 0; lane < 32; ++lane) {
    const int a = lane / 4, b = lane % 4 * 2;
    for (int j = 0; j < 4; ++j) {
      const uint32_t straight = element(j, a, b) | element(j, a, b + 1) << 16;
      EXPECT_EQ(out[lane * 10 + j], straight);
      EXPECT_EQ(out[lane * 10 + 4 + j], element(j, b, a) | element(j, b + 1, a) << 16);
      if (j < 2) {
        EXPECT_EQ(out[lane * 10 + 8 + j], straight);
      }
    }
  }
}

TEST_P(PrimitivesTest, Mma) {
  std::normal_distribution<float> normal;
  for (int round = 0; round < 20; ++round) {
    std::vector<uint16_t> in(256 + 128 + 256);
    for (size_t i = 0; i < 384; ++i) in[i] = FloatToBf16(normal(random_));
    std::vector<float> d(128);
    for (float& value : d) value = normal(random_);
    std::memcpy(in.data() + 384, d.data(), 512);
    const auto out = Run<float>(kernels_.mma, {}, in, 128);
    for (size_t m = 0; m < 16; ++m) {
      for (size_t n = 0; n < 8; ++n) {
        double sum = double{d[m * 8 + n]}, magnitude = std::fabs(sum);
        for (size_t k = 0; k < 16; ++k) {
          const double product =
              double{Bf16ToFloat(in[m * 16 + k])} * double{Bf16ToFloat(in[256 + k * 8 + n])};
          sum += product;
          magnitude += std::fabs(product);
        }
        // 16 additions, each to float or, in the machine, cut off at a bit below it.
        ASSERT_NEAR(double{out[m * 8 + n]}, sum, magnitude * 16 * 0x1p-23) << m << " " << n;
      }
    }
  }
}

uint32_t Bits(float x) { return std::bit_cast<uint32_t>(x); }
uint32_t MachineBf16(float x) { return x != x ? 0x7fffu : FloatToBf16(x); }

// a * b + c in more than enough bits, then once to bf16; finite values of like size.
uint32_t FmaBf16(uint16_t a, uint16_t b, uint16_t c) {
  const long double exact = static_cast<long double>(Bf16ToFloat(a)) * Bf16ToFloat(b) +
                            static_cast<long double>(Bf16ToFloat(c));
  int exponent;
  std::frexp(exact, &exponent);
  const long double unit = std::ldexp(1.0L, exponent - 8);
  return FloatToBf16(static_cast<float>(std::nearbyint(exact / unit) * unit));
}

TEST_P(PrimitivesTest, Floats) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  std::vector<float> in = {1, 2,     3,    0.0f, -0.0f,     1,    -0.0f, 0.0f,      -1,     inf,
                           1, -inf,  -inf, 2,    5,         2.5f, 3.5f,  -2.5f,     1e-40f, 1,
                           0, 3e38f, 10,   -inf, 0x1.01p0f, 1,    0,     0x1.03p0f, 1,      0};
  while (in.size() < 900) in.push_back(std::ldexp(static_cast<float>(random_()) - 0x1p31f, -29));
  in.insert(in.end(), {nan, 1, 2, 1, nan, 2});
  const int count = static_cast<int>(in.size() / 3);
  const auto out = Run<uint32_t>(kernels_.floats, {}, in, 16 * static_cast<size_t>(count), count);
  for (int i = 0; i < count; ++i) {
    const float x = in[3 * i], y = in[3 * i + 1], z = in[3 * i + 2];
    const uint32_t* o = &out[16 * i];
    SCOPED_TRACE(testing::Message() << x << " " << y << " " << z);
    const uint32_t of_nan = x != x ? Bits(y) : Bits(x);
    if (x != x || y != y) {
      EXPECT_EQ(o[2], of_nan);
      EXPECT_EQ(o[3], of_nan);
      EXPECT_EQ(o[7] & 0xffff, MachineBf16(x));
      EXPECT_EQ(o[7] >> 16, MachineBf16(y));
      continue;
    }
    const bool number = std::fma(x, y, z) == std::fma(x, y, z);
    if (number) {
      EXPECT_EQ(o[0], Bits(std::fma(x, y, z)));
    }
    EXPECT_EQ(o[1], Bits(std::sqrt(std::fabs(x))));
    if (x != y) {
      EXPECT_EQ(o[2], Bits(x > y ? x : y));
      EXPECT_EQ(o[3], Bits(x > y ? y : x));
    } else if (x == 0) {
      EXPECT_EQ(o[2], Bits(0.0f));
      EXPECT_EQ(o[3], Bits(-0.0f));
    }
    EXPECT_EQ(o[4], Bits(x) & 0x7fffffffu);
    EXPECT_EQ(o[5], Bits(std::nearbyint(x)));
    EXPECT_EQ(o[6], MachineBf16(x));
    EXPECT_EQ(o[7], MachineBf16(x) | MachineBf16(y) << 16);
    EXPECT_EQ(o[8], Bits(x) & 0xffff0000u);
    const float half = F16ToFloat(static_cast<uint16_t>(Bits(x) >> 16));
    if (half == half) {
      EXPECT_EQ(o[9], Bits(half));
    }
    const double exp2 = std::exp2(double{x});
    if (exp2 < 0x1p-126) {
      EXPECT_EQ(o[11], 0u);
    } else if (exp2 < 3e38) {
      EXPECT_NEAR(double{std::bit_cast<float>(o[11])}, exp2, exp2 * 0x1p-21);
    } else {
      EXPECT_GE(std::bit_cast<float>(o[11]), 3e38f);
    }
    if (!number) continue;
    const double fused = std::fma(double{x}, double{y}, double{z});
    EXPECT_EQ(uint64_t{o[12]} << 32 | o[13], std::bit_cast<uint64_t>(fused));
    EXPECT_EQ(o[14], std::bit_cast<uint64_t>(std::nearbyint(double{x} * 0.5)) >> 32);
    EXPECT_EQ(o[15], Bits(static_cast<float>(static_cast<double>(x * y) + double{z})));
    if (i >= 10) {
      EXPECT_EQ(o[10] >> 16, FmaBf16(Bits(x) >> 16, Bits(y) >> 16, Bits(z) >> 16));
    }
  }
}

TEST_P(PrimitivesTest, Integers) {
  std::vector<uint32_t> in = {0, 0, ~0u, ~0u, 1, 0, 0x80000000u, 1};
  while (in.size() < 400) in.push_back(random_());
  const int count = static_cast<int>(in.size() / 2);
  const auto out = Run<uint32_t>(kernels_.integers, {}, in, 8 * static_cast<size_t>(count), count);
  for (int i = 0; i < count; ++i) {
    const uint32_t x = in[2 * i], y = in[2 * i + 1];
    const uint32_t* o = &out[8 * i];
    auto byte = [&](uint32_t index) {
      return index < 4 ? x >> (8 * index) & 0xff : y >> (8 * index - 32) & 0xff;
    };
    EXPECT_EQ(o[0], byte(1) | byte(5) << 8 | byte(3) << 16 | byte(7) << 24);
    uint32_t permuted = 0;
    for (uint32_t j = 0; j < 4; ++j) permuted |= byte(x >> (4 * j) & 7) << (8 * j);
    EXPECT_EQ(o[1], permuted);
    EXPECT_EQ(o[2], (x & 0x000f000fu) | 0x43004300u);
    EXPECT_EQ(o[3], static_cast<uint32_t>(std::popcount(x)));
    EXPECT_EQ(o[4], static_cast<uint32_t>(std::countl_zero(x)));
    EXPECT_EQ(o[5], x == 0 ? ~0u : static_cast<uint32_t>(std::countr_zero(x)));
    // By halves: (x:y) * (y:x).
    const uint64_t low = uint64_t{y} * x, middle1 = uint64_t{x} * x, middle2 = uint64_t{y} * y;
    const uint64_t carry = (low >> 32) + (middle1 & ~0u) + (middle2 & ~0u);
    const uint64_t high = uint64_t{x} * y + (middle1 >> 32) + (middle2 >> 32) + (carry >> 32);
    EXPECT_EQ(uint64_t{o[6]} << 32 | o[7], high);
  }
}

// A product that lies between two bf16 is decided by the tiniest summand.
TEST_P(PrimitivesTest, FmaOfPairsRoundsOnce) {
  const float x = 1.0625f;
  const std::vector<float> in = {x, x, 0x1p-100f, x, x, -0x1p-100f, x, x, 0.0f};
  const auto out = Run<uint32_t>(kernels_.floats, {}, in, 16 * 3, 3);
  EXPECT_EQ(out[10] >> 16, Bits(1.125f + 0x1p-7f) >> 16);
  EXPECT_EQ(out[16 + 10] >> 16, Bits(1.125f) >> 16);
  EXPECT_EQ(out[32 + 10] >> 16, Bits(1.125f) >> 16);
}

INSTANTIATE_TEST_SUITE_P(Devices, PrimitivesTest, testing::Values(Where::kEmulation, Where::kGpu),
                         [](const auto& info) {
                           return info.param == Where::kEmulation ? "Emulation" : "Gpu";
                         });

}  // namespace
}  // namespace qwenserve
