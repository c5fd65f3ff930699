#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/model_config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GenerationDefaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = absl::StrCat(::testing::TempDir(), "/generation_defaults_",
                        ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
    config_.vocab_size = 151936;
    Write("config.json", "{}");
  }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(absl::StrCat(dir_, "/", name)) << text;
  }

  absl::StatusOr<GenerationDefaults> Read() { return ReadGenerationDefaults(dir_, config_); }

  std::string dir_;
  ModelConfig config_;
};

TEST_F(GenerationDefaultsTest, ReadsAChatModelOfTheThirdGeneration) {
  config_.style = CheckpointStyle::kQwen3;
  Write("generation_config.json",
        R"({"bos_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643],
            "pad_token_id": 151643, "temperature": 0.6, "top_k": 20, "top_p": 0.95})");
  auto defaults = Read();
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->temperature, 0.6f);
  EXPECT_EQ(defaults->top_k, 20);
  EXPECT_EQ(defaults->top_p, 0.95f);
  EXPECT_FALSE(defaults->min_p.has_value());
  EXPECT_FALSE(defaults->repetition_penalty.has_value());
  EXPECT_THAT(defaults->eos_ids, ElementsAre(151645, 151643));
}

TEST_F(GenerationDefaultsTest, AddsTheEndsOfAChatMLTurnToQwen1) {
  config_.style = CheckpointStyle::kQwen1;
  Write("generation_config.json",
        R"({"chat_format": "chatml", "eos_token_id": 151643, "max_window_size": 24000,
            "top_k": 0, "top_p": 0.8, "repetition_penalty": 1.1})");
  auto defaults = Read();
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_THAT(defaults->eos_ids, ElementsAre(151643, 151645, 151644));
  EXPECT_EQ(defaults->top_k, 0);
  EXPECT_EQ(defaults->repetition_penalty, 1.1f);
  EXPECT_FALSE(defaults->temperature.has_value());
}

TEST_F(GenerationDefaultsTest, ABaseQwen1EndsOnlyAtEndOfText) {
  config_.style = CheckpointStyle::kQwen1;
  Write("generation_config.json",
        R"({"chat_format": "raw", "eos_token_id": 151643, "stop_words_ids": [[151643]]})");
  EXPECT_THAT(Read()->eos_ids, ElementsAre(151643));
}

TEST_F(GenerationDefaultsTest, FallsBackToConfigThenToTheFamily) {
  EXPECT_THAT(Read()->eos_ids, ElementsAre(151643, 151645));
  Write("config.json", R"({"eos_token_id": 7})");
  EXPECT_THAT(Read()->eos_ids, ElementsAre(7));
  Write("generation_config.json", R"({"eos_token_id": 9})");
  EXPECT_THAT(Read()->eos_ids, ElementsAre(9));
}

TEST_F(GenerationDefaultsTest, NoSamplingIsGreedy) {
  Write("generation_config.json", R"({"do_sample": false, "eos_token_id": 151643})");
  EXPECT_EQ(Read()->temperature, 0.0f);
}

TEST_F(GenerationDefaultsTest, RefusesWrongValuesByName) {
  const struct {
    const char* json;
    const char* word;
  } kCases[] = {{R"({"temperature": -1})", "temperature"},
                {R"({"temperature": "hot"})", "temperature"},
                {R"({"top_p": 1.5})", "top_p"},
                {R"({"top_p": 0})", "top_p"},
                {R"({"top_k": 2.5})", "top_k"},
                {R"({"repetition_penalty": 0})", "repetition_penalty"},
                // Requests are refused these, so as defaults they would spoil every request.
                {R"({"temperature": 0.0001})", "temperature"},
                {R"({"repetition_penalty": 101})", "repetition_penalty"},
                {R"({"eos_token_id": 151936})", "151936"},
                {R"({"eos_token_id": [-1]})", "-1"},
                {R"({"eos_token_id": "x"})", "eos_token_id"},
                {"[]", "not a JSON object"},
                {"{", "bad JSON"}};
  for (const auto& test : kCases) {
    Write("generation_config.json", test.json);
    const absl::Status status = Read().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.json;
    EXPECT_THAT(status.message(), HasSubstr("generation_config.json")) << test.json;
    EXPECT_THAT(status.message(), HasSubstr(test.word)) << test.json;
  }
}

TEST_F(GenerationDefaultsTest, ASmallVocabularyNeedsAnExplicitEnd) {
  config_.vocab_size = 100;
  const absl::Status status = Read().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("eos_token_id"));
}

}  // namespace
}  // namespace qwenserve
