#include "engine/schedule/step_plan.h"

#include <random>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

StepPlan SomePlan() {
  StepPlan plan;
  plan.step = 7;
  PlanSequence prefill;
  prefill.first_position = 16;
  prefill.ids = {1, 2, 3};
  prefill.prompt_tokens = 30;
  prefill.blocks = {5, 9};
  prefill.first_scored = 1;
  prefill.num_scored = 2;
  prefill.score_top = 5;
  prefill.next_id = 4;
  PlanSequence decode;
  decode.first_position = 3;
  decode.ids = {0};
  decode.sampled_by_row = 2;
  decode.prompt_tokens = 2;
  decode.blocks = {4};
  decode.wants_logits = true;
  decode.sample = {.temperature = 0.5f, .top_k = 3, .top_p = 0.75f, .min_p = 0.25f};
  decode.sample.seed = uint64_t{1} << 63;
  decode.sample.position = 4;
  decode.sample.sample_index = 6;
  decode.sample.num_logprobs = 2;
  plan.sequences = {prefill, decode};
  return plan;
}

void ExpectEqual(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.shutdown, b.shutdown);
  ASSERT_EQ(a.sequences.size(), b.sequences.size());
  for (size_t i = 0; i < a.sequences.size(); ++i) {
    EXPECT_EQ(a.sequences[i].first_position, b.sequences[i].first_position);
    EXPECT_EQ(a.sequences[i].ids, b.sequences[i].ids);
    EXPECT_EQ(a.sequences[i].sampled_by_row, b.sequences[i].sampled_by_row);
    EXPECT_EQ(a.sequences[i].prompt_tokens, b.sequences[i].prompt_tokens);
    EXPECT_EQ(a.sequences[i].blocks, b.sequences[i].blocks);
    EXPECT_EQ(a.sequences[i].wants_logits, b.sequences[i].wants_logits);
    EXPECT_EQ(a.sequences[i].whole_row, b.sequences[i].whole_row);
    EXPECT_EQ(a.sequences[i].first_scored, b.sequences[i].first_scored);
    EXPECT_EQ(a.sequences[i].num_scored, b.sequences[i].num_scored);
    EXPECT_EQ(a.sequences[i].score_top, b.sequences[i].score_top);
    EXPECT_EQ(a.sequences[i].next_id, b.sequences[i].next_id);
    const SampleRow &x = a.sequences[i].sample, &y = b.sequences[i].sample;
    EXPECT_EQ(x.temperature, y.temperature);
    EXPECT_EQ(x.top_k, y.top_k);
    EXPECT_EQ(x.top_p, y.top_p);
    EXPECT_EQ(x.min_p, y.min_p);
    EXPECT_EQ(x.seed, y.seed);
    EXPECT_EQ(x.position, y.position);
    EXPECT_EQ(x.sample_index, y.sample_index);
    EXPECT_EQ(x.num_logprobs, y.num_logprobs);
  }
}

TEST(StepPlan, TravelsAsBytes) {
  auto plan = ParseStepPlan(SerializeStepPlan(SomePlan()));
  ASSERT_TRUE(plan.ok()) << plan.status();
  ExpectEqual(*plan, SomePlan());
  StepPlan shutdown;
  shutdown.shutdown = true;
  plan = ParseStepPlan(SerializeStepPlan(shutdown));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->shutdown);
}

TEST(StepPlan, TellsTheOthersThatARowIsEdited) {
  StepPlan plan = SomePlan();
  const std::vector<int32_t> banned = {1};
  plan.sequences[1].sample.banned_ids = banned;
  auto parsed = ParseStepPlan(SerializeStepPlan(plan));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->sequences[1].whole_row);
  EXPECT_TRUE(parsed->sequences[1].sample.banned_ids.empty());
}

TEST(StepPlan, RefusesEveryPrefixAndOneByteMore) {
  const std::string bytes = SerializeStepPlan(SomePlan());
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_EQ(ParseStepPlan(absl::string_view(bytes).substr(0, n)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << n;
  }
  EXPECT_FALSE(ParseStepPlan(bytes + '\0').ok());
}

TEST(StepPlan, RefusesImpossibleContents) {
  const auto refused = [](auto spoil) {
    StepPlan plan = SomePlan();
    spoil(plan.sequences[0]);
    return !ParseStepPlan(SerializeStepPlan(plan)).ok();
  };
  EXPECT_TRUE(refused([](PlanSequence& s) { s.ids.clear(); }));
  EXPECT_TRUE(refused([](PlanSequence& s) { s.first_position = -1; }));
  EXPECT_TRUE(refused([](PlanSequence& s) { s.first_position = INT64_MAX; }));
  EXPECT_TRUE(refused([](PlanSequence& s) { s.blocks.pop_back(); }));
  EXPECT_TRUE(refused([](PlanSequence& s) { s.sampled_by_row = 0; }));  // three inputs
  EXPECT_TRUE(refused([](PlanSequence& s) { s.sampled_by_row = -2; }));
  EXPECT_TRUE(refused([](PlanSequence& s) { s.prompt_tokens = 0; }));
  EXPECT_TRUE(refused([](PlanSequence& s) { s.num_scored = 3; }));       // of two
  EXPECT_TRUE(refused([](PlanSequence& s) { s.wants_logits = true; }));  // its row is scored
  EXPECT_TRUE(refused([](PlanSequence& s) { s.first_scored = -1; }));
  EXPECT_TRUE(refused([](PlanSequence& s) { s.score_top = 21; }));
}

// Whatever the bytes are: a plan that is consistent, or an error, and no crash.
TEST(StepPlan, SurvivesRandomDamage) {
  const std::string good = SerializeStepPlan(SomePlan());
  std::mt19937 random(1);
  int accepted = 0;
  for (int i = 0; i < 50000; ++i) {
    std::string bytes = good;
    for (uint32_t n = 1 + random() % 4; n > 0; --n) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    const auto plan = ParseStepPlan(bytes);
    if (!plan.ok()) continue;
    ++accepted;
    EXPECT_EQ(SerializeStepPlan(*plan), bytes);
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace qwenserve
