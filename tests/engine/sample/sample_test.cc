#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "engine/sample/sampler.h"
#include "engine/sample/sampling_params.h"
#include "engine/sample/stop_checker.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr int64_t kVocabulary = 50;

SamplingParams Valid() {
  SamplingParams params;
  params.max_tokens = 3;
  return params;
}

TEST(Validate, AcceptsDefaultsAndBorders) {
  EXPECT_TRUE(Validate(Valid(), kVocabulary).ok());
  SamplingParams params = Valid();
  params.temperature = 0;
  params.top_p = 1;
  params.min_p = 1;
  params.presence_penalty = -2;
  params.frequency_penalty = 2;
  params.stop_token_ids = {0, 49};
  params.logit_bias = {{0, -100.0f}, {49, 100.0f}};
  params.min_tokens = 3;
  params.num_logprobs = 20;
  params.num_prompt_logprobs = 0;
  EXPECT_TRUE(Validate(params, kVocabulary).ok());
}

TEST(Validate, NamesTheFieldThatIsWrong) {
  const float nan = std::nanf("");
  const float infinity = std::numeric_limits<float>::infinity();
  struct Case {
    const char* field;
    std::function<void(SamplingParams&)> spoil;
  };
  const std::vector<Case> cases = {
      {"temperature", [](SamplingParams& p) { p.temperature = -0.1f; }},
      {"temperature", [](SamplingParams& p) { p.temperature = 1e-30f; }},
      {"temperature", [=](SamplingParams& p) { p.temperature = nan; }},
      {"temperature", [=](SamplingParams& p) { p.temperature = infinity; }},
      {"top_k", [](SamplingParams& p) { p.top_k = -1; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 0; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 1.01f; }},
      {"top_p", [=](SamplingParams& p) { p.top_p = nan; }},
      {"min_p", [](SamplingParams& p) { p.min_p = -1; }},
      {"repetition_penalty", [](SamplingParams& p) { p.repetition_penalty = 0; }},
      {"repetition_penalty", [=](SamplingParams& p) { p.repetition_penalty = nan; }},
      {"presence_penalty", [](SamplingParams& p) { p.presence_penalty = 2.5f; }},
      {"frequency_penalty", [=](SamplingParams& p) { p.frequency_penalty = nan; }},
      {"max_tokens", [](SamplingParams& p) { p.max_tokens = 0; }},
      {"stop_token_ids[1]",
       [](SamplingParams& p) {
         p.stop_token_ids = {1, -1};
       }},
      {"stop_token_ids[0]", [](SamplingParams& p) { p.stop_token_ids = {50}; }},
      {"stop_token_ids", [](SamplingParams& p) { p.stop_token_ids.resize(65); }},
      {"min_tokens", [](SamplingParams& p) { p.min_tokens = -1; }},
      {"min_tokens", [](SamplingParams& p) { p.min_tokens = 4; }},
      {"num_logprobs", [](SamplingParams& p) { p.num_logprobs = 21; }},
      {"num_logprobs", [](SamplingParams& p) { p.num_logprobs = -2; }},
      {"num_prompt_logprobs", [](SamplingParams& p) { p.num_prompt_logprobs = 21; }},
      {"logit_bias[1]",
       [](SamplingParams& p) {
         p.logit_bias = {{1, 1}, {50, 1}};
       }},
      {"logit_bias[1]",
       [](SamplingParams& p) {
         p.logit_bias = {{1, 1}, {1, 2}};
       }},
      {"logit_bias[7]",
       [](SamplingParams& p) {
         p.logit_bias = {{7, 100.5f}};
       }},
      {"logit_bias[7]",
       [=](SamplingParams& p) {
         p.logit_bias = {{7, nan}};
       }},
      {"logit_bias", [](SamplingParams& p) { p.logit_bias.resize(1025); }},
  };
  for (const Case& c : cases) {
    SamplingParams params = Valid();
    c.spoil(params);
    const absl::Status status = Validate(params, kVocabulary);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.field));
  }
}

TEST(StopChecker, EosAndStopIdsEndWithoutBelongingToTheAnswer) {
  const StopChecker checker({7, 8});
  SamplingParams params = Valid();
  params.stop_token_ids = {20};
  EXPECT_EQ(checker.Check(params, 8, 0), StopVerdict::kStopToken);
  EXPECT_EQ(checker.Check(params, 20, 0), StopVerdict::kStopToken);
  EXPECT_EQ(checker.Check(params, 9, 0), StopVerdict::kContinue);
  EXPECT_EQ(checker.Check(params, 9, 2), StopVerdict::kLastToken);
  EXPECT_EQ(checker.Check(params, 8, 2), StopVerdict::kStopToken);
}

TEST(StopChecker, IgnoreEosLeavesTheRequestsOwnIds) {
  const StopChecker checker({7});
  SamplingParams params = Valid();
  params.ignore_eos = true;
  params.stop_token_ids = {20};
  EXPECT_EQ(checker.Check(params, 7, 0), StopVerdict::kContinue);
  EXPECT_EQ(checker.Check(params, 7, 2), StopVerdict::kLastToken);
  EXPECT_EQ(checker.Check(params, 20, 0), StopVerdict::kStopToken);
}

TEST(StopChecker, EndIdsAreThoseThatEnd) {
  const StopChecker checker({7, 8});
  SamplingParams params = Valid();
  params.stop_token_ids = {20};
  EXPECT_THAT(checker.EndIds(params), UnorderedElementsAre(7, 8, 20));
  params.ignore_eos = true;
  EXPECT_THAT(checker.EndIds(params), UnorderedElementsAre(20));
}

TEST(MakeSampleRow, BansTheEndUntilTheAnswerHasMinTokens) {
  SamplingParams params = Valid();
  params.min_tokens = 2;
  params.max_tokens = 9;
  const std::vector<int32_t> end_ids = {7, 8};
  const std::vector<int32_t> tokens = {5, 6, 9, 9, 9};
  const auto banned = [&](size_t num_tokens) {
    return MakeSampleRow(params, 0, absl::MakeConstSpan(tokens).first(num_tokens), 2, end_ids)
        .banned_ids.size();
  };
  EXPECT_EQ(banned(2), 2);
  EXPECT_EQ(banned(3), 2);
  EXPECT_EQ(banned(4), 0);
}

TEST(MakeSampleRow, TakesItsStateFromTheTokensAlone) {
  SamplingParams params = Valid();
  params.temperature = 0.5f;
  params.top_k = 3;
  params.top_p = 0.25f;
  params.min_p = 0.125f;
  params.repetition_penalty = 1.5f;
  params.presence_penalty = 0.5f;
  params.frequency_penalty = -0.5f;
  params.seed = 99;
  params.logit_bias = {{3, 1.5f}};
  params.num_logprobs = 4;
  const std::vector<int32_t> tokens = {5, 6, 7, 8};
  const SampleRow row = MakeSampleRow(params, 2, tokens, 3, {});
  EXPECT_EQ(row.temperature, 0.5f);
  EXPECT_EQ(row.top_k, 3);
  EXPECT_EQ(row.top_p, 0.25f);
  EXPECT_EQ(row.min_p, 0.125f);
  EXPECT_EQ(row.repetition_penalty, 1.5f);
  EXPECT_EQ(row.presence_penalty, 0.5f);
  EXPECT_EQ(row.frequency_penalty, -0.5f);
  EXPECT_EQ(row.seed, 99);
  EXPECT_EQ(row.position, 4);
  EXPECT_EQ(row.sample_index, 2);
  EXPECT_EQ(row.num_prompt_ids, 3);
  EXPECT_EQ(row.num_logprobs, 4);
  ASSERT_EQ(row.logit_bias.size(), 1);
  EXPECT_EQ(row.logit_bias[0].id, 3);
  EXPECT_TRUE(row.banned_ids.empty());
  EXPECT_EQ(row.context_ids, absl::MakeConstSpan(tokens));
}

}  // namespace
}  // namespace qwenserve
