// Spoiled step plans: refused by the parser or by the batch builder, or built within the limits.
#include <string>

#include "engine/schedule/batch_builder.h"
#include "engine/schedule/step_plan.h"
#include "gtest/gtest.h"
#include "tests/engine/fuzz/mutator.h"

namespace qwenserve {
namespace {

StepPlan GoodPlan() {
  PlanSequence prefill;
  prefill.first_position = 14;
  prefill.ids = {1, 2, 3};
  prefill.prompt_tokens = 20;
  prefill.blocks = {7, 3};
  PlanSequence decode;
  decode.first_position = 3;
  decode.ids = {0};
  decode.sampled_by_row = 1;
  decode.prompt_tokens = 2;
  decode.blocks = {5};
  decode.wants_logits = true;
  StepPlan plan;
  plan.step = 9;
  plan.sequences = {prefill, decode};
  return plan;
}

ModelConfig SmallConfig() {
  ModelConfig config;
  config.head_dim = 8;
  config.vocab_size = 50;
  config.ntk_train_length = 4;
  config.logn_train_length = 4;
  return config;
}

TEST(StepPlanFuzz, ParseAndBuild) {
  const ModelConfig config = SmallConfig();
  const BatchLimits limits = {
      .max_rows = 6, .max_sequences = 3, .max_model_len = 32, .num_blocks = 10};
  const std::unique_ptr<Backend> backend = *MakeCpuBackend({});
  const RopeTables rope = *RopeTables::Create(config, limits.max_model_len, *backend);
  const std::string good = SerializeStepPlan(GoodPlan());
  const std::vector<std::string> words = {std::string(8, '\0'), std::string(4, '\xff'),
                                          std::string("\x01\0\0\0", 4),
                                          std::string("\xff\xff\xff\x7f", 4)};
  int parsed = 0, built = 0;
  ForEachSeed(50000, [&](uint32_t seed) {
    Mutator mutator(seed);
    const std::string bytes = mutator.Mutate(good, words);
    const auto plan = ParseStepPlan(bytes);
    if (!plan.ok()) return ExpectCleanError(plan.status());
    ++parsed;
    EXPECT_EQ(SerializeStepPlan(*plan), bytes);
    HostBatch batch;
    const std::vector<int32_t> draws = {3, 5};  // where the step before left what it drew
    const absl::Status status = BuildBatch(*plan, config, limits, draws, rope, &batch);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
      return;
    }
    ++built;
    EXPECT_LE(static_cast<int64_t>(batch.ids.size()), limits.max_rows);
    for (const int32_t id : batch.ids) {
      EXPECT_TRUE((id >= 0 && id < config.vocab_size) || id == -1 - draws[0] || id == -1 - draws[1])
          << id;
    }
    for (const int32_t p : batch.positions) EXPECT_TRUE(p >= 0 && p < limits.max_model_len);
    for (const int32_t b : batch.block_tables) EXPECT_TRUE(b >= 0 && b < limits.num_blocks);
    for (const int32_t t : batch.rope_tables) {
      EXPECT_TRUE(t >= 0 && static_cast<size_t>(t) < rope.tables().size());
    }
  });
  EXPECT_GT(parsed, built);
  EXPECT_GT(built, 0);
}

}  // namespace
}  // namespace qwenserve
