#include "engine/quantize/gptq_format.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

QuantizedMatrix Matrix(int bits, int64_t out, int64_t in, int64_t group_size) {
  QuantizedMatrix matrix;
  matrix.bits = bits;
  matrix.out_features = out;
  matrix.in_features = in;
  matrix.groups = (in + group_size - 1) / group_size;
  for (int64_t i = 0; i < out * in; ++i) {
    matrix.codes.push_back(static_cast<uint8_t>((i * 37 + i / in) % (1 << bits)));
  }
  for (int64_t i = 0; i < out * matrix.groups; ++i) {
    matrix.scales.push_back(static_cast<uint16_t>(0x3c00 + i));
  }
  for (int64_t i = 0; i < in; ++i) {
    matrix.group_of.push_back(static_cast<int32_t>((in - 1 - i) / group_size));
  }
  return matrix;
}

TEST(GptqFormatTest, PacksInputsIntoWordsLowBitsFirst) {
  const QuantizedMatrix matrix = Matrix(4, 16, 16, 8);
  const GptqTensors tensors = PackGptq(matrix, 0, 16);
  ASSERT_EQ(tensors.qweight.size(), 2u * 16);
  for (int64_t r = 0; r < 2; ++r) {
    for (int64_t o = 0; o < 16; ++o) {
      uint32_t word = 0;
      for (int64_t j = 0; j < 8; ++j) word += uint32_t{matrix.codes[o * 16 + 8 * r + j]} << (4 * j);
      EXPECT_EQ(static_cast<uint32_t>(tensors.qweight[r * 16 + o]), word);
    }
  }
  // The symmetric zero is 8; the layout stores it less 1.
  EXPECT_EQ(tensors.qzeros.size(), 2u * 2);
  EXPECT_THAT(tensors.qzeros, Each(0x77777777));
  for (int64_t g = 0; g < 2; ++g) {
    for (int64_t o = 0; o < 16; ++o) {
      EXPECT_EQ(tensors.scales[g * 16 + o], matrix.scales[o * 2 + g]);
    }
  }
  EXPECT_EQ(tensors.g_idx, matrix.group_of);
}

TEST(GptqFormatTest, PacksEightBitsAndPartsOfTheRows) {
  const QuantizedMatrix matrix = Matrix(8, 12, 40, 32);
  const GptqTensors whole = PackGptq(matrix, 0, 12), part = PackGptq(matrix, 4, 8);
  EXPECT_THAT(whole.qzeros, Each(0x7f7f7f7f));
  EXPECT_EQ(whole.qzeros.size(), 2u * 3);
  ASSERT_EQ(part.qweight.size(), 10u * 4);
  for (int64_t r = 0; r < 10; ++r) {
    for (int64_t o = 0; o < 4; ++o) {
      uint32_t word = 0;
      for (int64_t j = 0; j < 4; ++j) {
        word += uint32_t{matrix.codes[(4 + o) * 40 + 4 * r + j]} << (8 * j);
      }
      EXPECT_EQ(static_cast<uint32_t>(part.qweight[r * 4 + o]), word);
      EXPECT_EQ(part.qweight[r * 4 + o], whole.qweight[r * 12 + 4 + o]);
    }
  }
}

TEST(GptqFormatTest, PlansTheShapesOfTheLayout) {
  GptqOptions options;  // 4 bits, groups of 128
  const auto plans = GptqTensorPlans("m", 64, 320, options);
  ASSERT_EQ(plans.size(), 4u);
  EXPECT_EQ(plans[0].name, "m.qweight");
  EXPECT_THAT(plans[0].shape, ElementsAre(40, 64));
  EXPECT_EQ(plans[1].name, "m.qzeros");
  EXPECT_THAT(plans[1].shape, ElementsAre(3, 8));
  EXPECT_EQ(plans[2].name, "m.scales");
  EXPECT_EQ(plans[2].dtype, "F16");
  EXPECT_THAT(plans[2].shape, ElementsAre(3, 64));
  EXPECT_EQ(plans[3].name, "m.g_idx");
  EXPECT_THAT(plans[3].shape, ElementsAre(320));
}

TEST(GptqFormatTest, RefusesWordsThatWouldNotBeFull) {
  EXPECT_TRUE(CheckFitsGptqLayout("m", 64, 328, 4).ok());
  EXPECT_TRUE(CheckFitsGptqLayout("m", 12, 36, 8).ok());
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{64, 100}, {100, 64}}) {
    const absl::Status status = CheckFitsGptqLayout("m", out, in, 4);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("multiples of 8"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("100"));
  }
}

TEST(GptqFormatTest, TellsLoadersWhatWasDone) {
  GptqOptions options;
  options.bits = 8;
  options.act_order = true;
  const Json json = GptqQuantizeConfig(options);
  EXPECT_EQ(json["bits"], 8);
  EXPECT_EQ(json["group_size"], 128);
  EXPECT_EQ(json["sym"], true);
  EXPECT_EQ(json["desc_act"], true);
}

}  // namespace
}  // namespace qwenserve
