#include "engine/model/quantization_config.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<QuantizationConfig> QuantizationOf(const std::string& text) {
  const Json json = *ParseJson(text, "x");
  return ParseQuantization({&json, "config.json: quantization_config"}, {});
}

TEST(QuantizationConfigTest, ReadsTheOfficialOnes) {
  auto gptq =
      QuantizationOf(R"({"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": false,
      "static_groups": false, "sym": true, "true_sequential": true, "model_name_or_path": null,
      "model_file_base_name": "model", "quant_method": "gptq"})");
  ASSERT_TRUE(gptq.ok()) << gptq.status();
  EXPECT_EQ(DescribeQuantization(*gptq), "GPTQ, 4 bits, groups of 128");
  EXPECT_TRUE(gptq->zero_minus_one);
  auto awq = QuantizationOf(R"({"bits": 4, "group_size": 128, "modules_to_not_convert": null,
      "quant_method": "awq", "version": "gemm", "zero_point": true})");
  ASSERT_TRUE(awq.ok()) << awq.status();
  EXPECT_EQ(DescribeQuantization(*awq), "AWQ, 4 bits, groups of 128");
  EXPECT_FALSE(awq->zero_minus_one);
  auto newer =
      QuantizationOf(R"({"bits": 8, "group_size": -1, "desc_act": true, "quant_method": "GPTQ",
      "checkpoint_format": "gptq_v2", "pack_dtype": "int32", "dynamic": {"-:.*down.*": {}}})");
  ASSERT_TRUE(newer.ok()) << newer.status();
  EXPECT_EQ(DescribeQuantization(*newer), "GPTQ v2, 8 bits, one group, act-order");
}

// Zero points of another layout are other weights: no spelling of it may be missed.
TEST(QuantizationConfigTest, KnowsTheLayoutByBothOfItsNames) {
  auto v2 = QuantizationOf(R"({"bits": 4, "quant_method": "gptq", "format": "gptq_v2"})");
  ASSERT_TRUE(v2.ok()) << v2.status();
  EXPECT_FALSE(v2->zero_minus_one);
  EXPECT_TRUE(QuantizationOf(R"({"bits": 4, "quant_method": "gptq", "format": "gptq",
      "checkpoint_format": "GPTQ"})")
                  ->zero_minus_one);
  EXPECT_TRUE(
      QuantizationOf(R"({"bits": 4, "quant_method": "awq", "version": "gemm", "format": "gemm",
      "checkpoint_format": "gemm"})")
          .ok());
}

TEST(QuantizationConfigTest, TakesTheGroupSizesThatQuantizersMake) {
  for (const int64_t size : {32, 64, 128, 256, 512, 1024, -1}) {
    auto config = QuantizationOf(R"({"quant_method": "gptq", "bits": 4, "group_size": )" +
                                 std::to_string(size) + "}");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->group_size, size);
  }
}

TEST(QuantizationConfigTest, RefusesWhatItCannotReadByName) {
  struct Refusal {
    const char* text;
    absl::StatusCode code;
    std::vector<const char*> words;
  };
  const auto kOther = absl::StatusCode::kUnimplemented;
  const auto kWrong = absl::StatusCode::kInvalidArgument;
  for (
      const Refusal& refusal : std::vector<Refusal>{
          {R"({"bits": 4})", kOther, {"quant_method", "unnamed"}},
          {R"({"quant_method": "bitsandbytes", "bits": 4})", kOther, {"bitsandbytes", "bf16"}},
          {R"({"quant_method": "gptq"})", kWrong, {"bits", "missing"}},
          {R"({"quant_method": "gptq", "bits": "4"})", kWrong, {"bits", "whole number"}},
          {R"({"quant_method": "gptq", "bits": 3})", kOther, {"bits", "3", "4 and 8"}},
          {R"({"quant_method": "awq", "bits": 8})", kOther, {"bits", "8", "AWQ"}},
          {R"({"quant_method": "gptq", "bits": 4, "group_size": 100})", kOther, {"100", "32, 64"}},
          {R"({"quant_method": "gptq", "bits": 4, "group_size": 0})", kOther, {"group_size", "0"}},
          {R"({"quant_method": "gptq", "bits": 4, "group_size": -2})", kWrong, {"-2"}},
          {R"({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"})",
           kOther,
           {"checkpoint_format", "marlin", "gptq_v2"}},
          {R"({"quant_method": "gptq", "bits": 4, "is_marlin_format": true})", kOther, {"marlin"}},
          {R"({"quant_method": "gptq", "bits": 4, "format": "bitblas"})", kOther, {"bitblas"}},
          {R"({"quant_method": "gptq", "bits": 4, "format": "gptq_v2", "checkpoint_format": "gptq"})",
           kWrong,
           {"checkpoint_format", "\"gptq\"", "\"format\"", "gptq_v2"}},
          {R"({"quant_method": "awq", "bits": 4, "format": "gemv"})", kOther, {"gemv", "GEMM"}},
          {R"({"quant_method": "gptq", "bits": 4, "group_size": 16})", kOther, {"16", "32, 64"}},
          {R"({"quant_method": "gptq", "bits": 4, "group_size": 2048})", kOther, {"2048"}},
          {R"({"quant_method": "gptq", "bits": 4, "pack_dtype": "int16"})", kOther, {"int16"}},
          {R"({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*mlp.*": {"bits": 8}}})",
           kOther,
           {"dynamic", "mlp"}},
          {R"({"quant_method": "gptq", "bits": 4, "desc_act": 1})", kWrong, {"desc_act"}},
          {R"({"quant_method": "awq", "bits": 4, "version": "GEMV"})", kOther, {"gemv", "GEMM"}},
          {R"({"quant_method": "awq", "bits": 4, "zero_point": false})", kOther, {"zero_point"}},
          {R"([])", kWrong, {"not an object"}}}) {
    const absl::Status status = QuantizationOf(refusal.text).status();
    EXPECT_EQ(status.code(), refusal.code) << refusal.text << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("config.json"));
    for (const char* word : refusal.words) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(word));
    }
  }
}

}  // namespace
}  // namespace qwenserve
