#include "engine/loader/group_rounding.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "engine/loader/group_plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Rounded {
  absl::Status status;
  uint16_t scale = 0;
  std::vector<uint8_t> codes;
};

Rounded Round(std::vector<float> values, WeightFormat format) {
  const auto count = static_cast<int64_t>(values.size());
  values.resize(values.size() + kRoundingUnit, 0.0f);
  Rounded result;
  result.codes.resize(values.size());
  result.status = RoundGroup(values.data(), count, format, &result.scale, result.codes.data());
  result.codes.resize(static_cast<size_t>(count));
  return result;
}

std::vector<float> Gaussian(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// Sum of squared errors of the best codes for a scale.
double Error(const std::vector<float>& values, double scale, int low, int high) {
  double sum = 0;
  for (const float value : values) {
    const double code =
        std::min<double>(high, std::max<double>(low, std::nearbyint(value / scale)));
    sum += std::pow(value - scale * code, 2);
  }
  return sum;
}

double ErrorOf(const std::vector<float>& values, const Rounded& rounded, int middle) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = double{F16ToFloat(rounded.scale)} * (rounded.codes[i] - middle);
    sum += std::pow(values[i] - value, 2);
  }
  return sum;
}

TEST(GroupRoundingTest, Int8CodesAreTheNearestOfTheRoundedScale) {
  for (const int64_t count : {1, 31, 128, 896}) {
    const std::vector<float> values = Gaussian(count, 1);
    const Rounded rounded = Round(values, WeightFormat::kInt8);
    ASSERT_TRUE(rounded.status.ok()) << rounded.status;
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::fabs(value));
    EXPECT_EQ(rounded.scale, FloatToF16(largest / 127));
    const float scale = F16ToFloat(rounded.scale);
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_LE(std::fabs(values[i] - scale * static_cast<float>(rounded.codes[i] - 128)),
                0.5001f * scale);
    }
  }
}

TEST(GroupRoundingTest, Int4TakesTheBestOfItsScales) {
  double chosen = 0, plain = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    const std::vector<float> values = Gaussian(128, seed);
    const Rounded rounded = Round(values, WeightFormat::kInt4);
    ASSERT_TRUE(rounded.status.ok()) << rounded.status;
    float largest = 0;
    for (const float value : values) {
      if (std::fabs(value) > std::fabs(largest)) largest = value;
    }
    double best = std::numeric_limits<double>::infinity();
    for (const float target : {-8.0f, -8.75f, -9.5f, -10.25f}) {
      best = std::min(best, Error(values, F16ToFloat(FloatToF16(largest / target)), -8, 7));
    }
    EXPECT_NEAR(ErrorOf(values, rounded, 8), best, 1e-5 * best) << "seed " << seed;
    chosen += best;
    plain += Error(values, std::fabs(largest) / 7, -7, 7);
  }
  EXPECT_LT(std::sqrt(chosen), 0.85 * std::sqrt(plain));
}

TEST(GroupRoundingTest, ZerosAndTinyWeightsStayZero) {
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const uint8_t middle = format == WeightFormat::kInt8 ? 128 : 8;
    for (const float value : {0.0f, 1e-12f, -1e-40f}) {
      const Rounded rounded = Round(std::vector<float>(40, value), format);
      ASSERT_TRUE(rounded.status.ok()) << rounded.status;
      EXPECT_EQ(rounded.scale & 0x7fff, 0);
      EXPECT_EQ(rounded.codes, std::vector<uint8_t>(40, middle));
    }
  }
}

// Scales below 6e-5 are subnormal fp16 numbers of few digits; codes must fit them all the same.
TEST(GroupRoundingTest, SmallScalesLoseDigitsNotWeights) {
  std::vector<float> values = Gaussian(128, 3);
  for (float& value : values) value *= 1e-4f;
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const bool int8 = format == WeightFormat::kInt8;
    const Rounded rounded = Round(values, format);
    ASSERT_TRUE(rounded.status.ok());
    double norm = 0;
    for (const float value : values) norm += double{value} * value;
    EXPECT_LT(ErrorOf(values, rounded, int8 ? 128 : 8), 0.05 * norm);
  }
}

TEST(GroupRoundingTest, WhatNoScaleCanHoldIsRefused) {
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> values = Gaussian(100, 5);
      values[77] = value;
      const Rounded rounded = Round(values, format);
      EXPECT_EQ(rounded.status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(rounded.status.message(), HasSubstr("not finite"));
    }
    std::vector<float> values = Gaussian(100, 5);
    values[3] = -1e7f;
    const Rounded rounded = Round(values, format);
    EXPECT_EQ(rounded.status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(rounded.status.message(), HasSubstr("-1e+07, too large"));
  }
}

// Replicas that round differently would continue each other's streams with other tokens.
TEST(GroupRoundingTest, TheBitsBelongToTheVersion) {
  std::mt19937 random(11);
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  const auto add = [&hash](uint32_t value) { hash = (hash ^ value) * 1099511628211u; };
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (int i = 0; i < 500; ++i) {
      std::vector<float> values(i % 4 == 0 ? 77 : 128);
      const float size = std::ldexp(1.0f, -30 - i % 24);
      // <random>'s distributions are not the same everywhere.
      for (float& value : values) {
        int64_t sum = 0;
        for (int j = 0; j < 4; ++j) sum += static_cast<int32_t>(random());
        value = static_cast<float>(sum) * size;
      }
      const Rounded rounded = Round(values, format);
      ASSERT_TRUE(rounded.status.ok()) << rounded.status;
      add(rounded.scale);
      for (uint8_t code : rounded.codes) add(code);
    }
  }
  EXPECT_EQ(kGroupRoundingVersion, 1);
  EXPECT_EQ(hash, 17857178012302825316u) << "raise kGroupRoundingVersion with any change of bits";
}

TEST(FloatToF16Test, InvertsF16ToFloatAndRoundsToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(value))));
    } else {
      ASSERT_EQ(FloatToF16(value), bits);
    }
  }
  EXPECT_EQ(FloatToF16(1.0f + 0x1p-11f), 0x3c00);
  EXPECT_EQ(FloatToF16(1.0f + 0x3p-11f), 0x3c02);
  EXPECT_EQ(FloatToF16(0x1p-25f), 0);
  EXPECT_EQ(FloatToF16(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToF16(65520.0f), 0x7c00);
}

std::vector<int32_t> Neighbours(int64_t first, int64_t count, int64_t size) {
  std::vector<int32_t> groups;
  for (int64_t i = first; i < first + count; ++i) groups.push_back(static_cast<int32_t>(i / size));
  return groups;
}

TEST(GroupPlanTest, WholeGroupsStayAsTheyAre) {
  const GroupPlan plan = PlanGroups(Neighbours(128, 320, 128));
  EXPECT_EQ(plan.group_size, 128);
  EXPECT_TRUE(plan.input_order.empty());
  EXPECT_THAT(plan.groups, ElementsAre(1, 2, 3));
  const GroupPlan row = PlanGroups(Neighbours(0, 100, 1000));
  EXPECT_EQ(row.group_size, 128);  // one group: all inputs, in blocks
  EXPECT_THAT(row.groups, ElementsAre(0));
}

// 448 of 896 inputs, as at two ranks of a 0.5B model: its group 3 goes to both.
TEST(GroupPlanTest, ACutGroupIsRepeatedInSmallerOnes) {
  const GroupPlan second = PlanGroups(Neighbours(448, 448, 128));
  EXPECT_EQ(second.group_size, 64);
  EXPECT_TRUE(second.input_order.empty());
  EXPECT_THAT(second.groups, ElementsAre(3, 4, 4, 5, 5, 6, 6));
  EXPECT_EQ(PlanGroups(Neighbours(96, 64, 128)).group_size, 32);
}

TEST(GroupPlanTest, ACutWithinABlockFillsGroupsUp) {
  const GroupPlan plan =
      PlanGroups(Neighbours(120, 20, 128));  // 8 inputs of group 0, 12 of group 1
  EXPECT_EQ(plan.group_size, 32);
  EXPECT_THAT(plan.groups, ElementsAre(0, 1));
  ASSERT_EQ(plan.input_order.size(), 64u);
  for (int i = 0; i < 64; ++i) {
    const int expected = i < 8 ? i : i >= 32 && i < 44 ? i - 24 : -1;
    EXPECT_EQ(plan.input_order[i], expected) << i;
  }
}

TEST(GroupPlanTest, ActOrderSortsInputsByGroup) {
  std::vector<int32_t> groups;
  for (int i = 0; i < 256; ++i) groups.push_back(1 - i % 2);
  const GroupPlan plan = PlanGroups(groups);
  EXPECT_EQ(plan.group_size, 128);
  EXPECT_THAT(plan.groups, ElementsAre(0, 1));
  ASSERT_EQ(plan.input_order.size(), 256u);
  for (int i = 0; i < 128; ++i) {
    EXPECT_EQ(plan.input_order[i], 2 * i + 1);
    EXPECT_EQ(plan.input_order[128 + i], 2 * i);
  }
}

TEST(GroupPlanTest, ActOrderOfARanksShareFillsEachGroupUp) {
  const GroupPlan plan = PlanGroups(std::vector<int32_t>{5, 2, 5, 5});
  EXPECT_EQ(plan.group_size, 32);
  EXPECT_THAT(plan.groups, ElementsAre(2, 5));
  ASSERT_EQ(plan.input_order.size(), 64u);
  EXPECT_EQ(plan.input_order[0], 1);
  EXPECT_EQ(plan.input_order[1], -1);
  EXPECT_EQ(plan.input_order[32], 0);
  EXPECT_EQ(plan.input_order[34], 3);
  EXPECT_EQ(plan.input_order[35], -1);
}

}  // namespace
}  // namespace qwenserve
