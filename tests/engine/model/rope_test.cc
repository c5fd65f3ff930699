#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

ModelConfig Qwen1(int64_t train_length) {
  ModelConfig config;
  config.head_dim = 128;
  config.rope_base = 10000;
  config.ntk_train_length = config.logn_train_length = train_length;
  return config;
}

ModelConfig Yarn(int64_t head_dim, double factor) {
  ModelConfig config;
  config.head_dim = head_dim;
  config.rope_base = 1e6;
  config.yarn = YarnScaling{factor, 32768};
  return config;
}

TEST(RopeTest, NtkAlphaChangesRightPastEachDoublingOfTheTrainingLength) {
  const struct {
    int64_t train, prompt, alpha;
  } kCases[] = {{2048, 1, 1},    {2048, 2048, 1},  {2048, 2049, 3},  {2048, 4096, 3},
                {2048, 4097, 7}, {2048, 8192, 7},  {2048, 8193, 15}, {8192, 8192, 1},
                {8192, 8193, 3}, {8192, 16384, 3}, {8192, 16385, 7}, {8192, 32768, 7}};
  for (const auto& test : kCases) {
    EXPECT_EQ(NtkAlpha(Qwen1(test.train), test.prompt), test.alpha) << test.prompt;
  }
  EXPECT_EQ(NtkAlpha(Qwen1(0), 1000000), 1);
}

TEST(RopeTest, InverseFrequenciesOfQwen1) {
  const struct {
    int64_t alpha;
    double at_1, at_32, at_63;
  } kCases[] = {{1, 0.8659643233600653, 0.01, 1.1547819846894582e-4},
                {3, 0.8509942913412162, 0.005723381508381237, 3.849273282298194e-5}};
  for (const auto& test : kCases) {
    const std::vector<double> inverse = InverseFrequencies(Qwen1(8192), test.alpha);
    ASSERT_EQ(inverse.size(), 64u);
    EXPECT_EQ(inverse[0], 1.0);
    EXPECT_NEAR(inverse[1], test.at_1, 1e-15);
    EXPECT_NEAR(inverse[32], test.at_32, 1e-16);
    EXPECT_NEAR(inverse[63], test.at_63, 1e-18);
  }
  // base' = base * alpha^(d / (d - 2)) is inverse[32]^-2, since 32 is half of d / 2.
  EXPECT_NEAR(std::pow(InverseFrequencies(Qwen1(8192), 7)[32], -2), 72195.86008650938, 1e-7);
}

TEST(RopeTest, InverseFrequenciesOfALargeBase) {
  ModelConfig config;
  config.head_dim = 128;
  config.rope_base = 1e6;
  const std::vector<double> inverse = InverseFrequencies(config, 1);
  EXPECT_NEAR(inverse[1], 0.8058421877614819, 1e-15);
  EXPECT_NEAR(inverse[32], 0.001, 1e-17);
  EXPECT_NEAR(inverse[63], 1.2409377607517195e-6, 1e-20);
}

TEST(RopeTest, LognScalesOnlyPastTheTrainingLength) {
  const struct {
    int64_t train, positions;
    double scale;
  } kCases[] = {{2048, 1, 1},
                {2048, 2048, 1},
                {2048, 2049, 1.0000640244555679},
                {2048, 4096, 1.0909090909090908},
                {2048, 8192, 1.1818181818181817},
                {8192, 16384, 1.0769230769230769},
                {8192, 32768, 1.153846153846154}};
  for (const auto& test : kCases) {
    EXPECT_FLOAT_EQ(LognScale(Qwen1(test.train), test.positions - 1),
                    static_cast<float>(test.scale))
        << test.positions;
  }
  EXPECT_EQ(LognScale(Qwen1(0), 100000), 1.0f);
}

// Dimensions up to `low` keep their frequency, those from `high` on are divided by the factor.
TEST(RopeTest, YarnRampsBetweenTheKnownDimensions) {
  const struct {
    int64_t head_dim;
    size_t low, high;
  } kCases[] = {{128, 23, 40}, {64, 11, 20}};
  for (const auto& test : kCases) {
    ModelConfig plain = Yarn(test.head_dim, 4);
    plain.yarn.reset();
    const std::vector<double> before = InverseFrequencies(plain, 1);
    const std::vector<double> after = InverseFrequencies(Yarn(test.head_dim, 4), 1);
    for (size_t i = 0; i < before.size(); ++i) {
      const double ratio = after[i] / before[i];
      const double ramp = i <= test.low ? 0
                          : i >= test.high
                              ? 1
                              : static_cast<double>(i - test.low) / (test.high - test.low);
      EXPECT_NEAR(ratio, 1 - ramp * 0.75, 1e-12) << test.head_dim << " " << i;
    }
  }
}

class RopeTableTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto backend = MakeCpuBackend({});
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = std::move(*backend);
  }

  RopeTables Make(const ModelConfig& config, int64_t max_positions) {
    auto tables = RopeTables::Create(config, max_positions, *backend_);
    EXPECT_TRUE(tables.ok()) << tables.status();
    return *std::move(tables);
  }

  std::unique_ptr<Backend> backend_;
};

TEST_F(RopeTableTest, HoldsCosAndSinOfEveryPosition) {
  const ModelConfig config = Qwen1(8192);
  const RopeTables tables = Make(config, 100);
  ASSERT_EQ(tables.IndexFor(10), 0);
  std::vector<float> values(100 * 64 * 2);
  backend_->CopyToHost(tables.tables()[0].cos_sin, values.size() * sizeof(float), values.data());
  EXPECT_EQ(tables.tables()[0].max_positions, 100);
  const std::vector<double> inverse = InverseFrequencies(config, 1);
  for (const int64_t position : {0, 1, 57, 99}) {
    for (size_t i = 0; i < 64; ++i) {
      const double angle = static_cast<double>(position) * inverse[i];
      EXPECT_FLOAT_EQ(values[(position * 64 + i) * 2], static_cast<float>(std::cos(angle)));
      EXPECT_FLOAT_EQ(values[(position * 64 + i) * 2 + 1], static_cast<float>(std::sin(angle)));
    }
  }
}

TEST_F(RopeTableTest, TheSampleForFingerprintsHoldsTheTablesOwnBits) {
  ModelConfig config = Qwen1(64);
  config.max_positions = 128;
  const RopeTables tables = Make(config, 128);
  const std::vector<float> sample = SampleRopeValues(config);
  // Positions 1, 62 and 123 of alphas 1 and 3, each with its logn scale.
  constexpr size_t kWidth = 64 * 2;
  ASSERT_EQ(sample.size(), 2 * 3 * (kWidth + 1));
  std::vector<float> table(128 * kWidth);
  for (size_t alpha = 0; alpha < 2; ++alpha) {
    backend_->CopyToHost(tables.tables()[alpha].cos_sin, table.size() * sizeof(float),
                         table.data());
    for (size_t i = 0; i < 3; ++i) {
      const size_t position = 1 + 61 * i;
      const auto values = sample.begin() + (alpha * 3 + i) * (kWidth + 1);
      EXPECT_TRUE(std::equal(values, values + kWidth, table.begin() + position * kWidth));
      EXPECT_EQ(values[kWidth], LognScale(config, position));
    }
  }
}

TEST_F(RopeTableTest, HasATableForEachAlphaBeforeAnybodyAsks) {
  const RopeTables tables = Make(Qwen1(64), 512);
  EXPECT_EQ(tables.tables().size(), 4u);
  EXPECT_EQ(tables.IndexFor(1), 0);
  EXPECT_EQ(tables.IndexFor(64), 0);
  EXPECT_EQ(tables.IndexFor(65), 1);
  EXPECT_EQ(tables.IndexFor(128), 1);
  EXPECT_EQ(tables.IndexFor(129), 2);
  EXPECT_EQ(tables.IndexFor(512), 3);
  EXPECT_EQ(Make(Qwen1(64), 64).tables().size(), 1u);
}

TEST_F(RopeTableTest, EachTableHasItsOwnAlpha) {
  const ModelConfig config = Qwen1(64);
  const RopeTables tables = Make(config, 200);
  for (const int64_t prompt : {64, 128, 200}) {
    const std::vector<double> inverse = InverseFrequencies(config, NtkAlpha(config, prompt));
    std::vector<float> values(200 * inverse.size() * 2);
    backend_->CopyToHost(tables.tables()[tables.IndexFor(prompt)].cos_sin,
                         values.size() * sizeof(float), values.data());
    EXPECT_FLOAT_EQ(values[(199 * inverse.size() + 1) * 2],
                    static_cast<float>(std::cos(199 * inverse[1])));
  }
}

TEST_F(RopeTableTest, YarnScalesCosAndSin) {
  for (const auto& [factor, scale] :
       {std::pair(4.0, 1.138629436111989), std::pair(2.0, 1.0693147180559945)}) {
    const RopeTables tables = Make(Yarn(128, factor), 1);
    float cos = 0;
    backend_->CopyToHost(tables.tables()[0].cos_sin, sizeof(float), &cos);
    EXPECT_FLOAT_EQ(cos, static_cast<float>(scale));
  }
}

}  // namespace
}  // namespace qwenserve
