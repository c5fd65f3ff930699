#include "engine/parallel/shard_plan.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/released_models.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

ModelConfig Tiny(int64_t query_heads, int64_t kv_heads, int64_t ffn, int64_t vocab) {
  ModelConfig config;
  config.num_query_heads = query_heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = 64;
  config.ffn_size = ffn;
  config.vocab_size = vocab;
  return config;
}

// What must hold for any model and any tp.
void CheckPlans(const ModelConfig& config, int tp) {
  const int64_t queries_per_kv = config.num_query_heads / config.num_kv_heads;
  int64_t next_head = 0, next_ffn = 0, next_vocab = 0, last_kv = 0;
  for (int rank = 0; rank < tp; ++rank) {
    SCOPED_TRACE(::testing::Message() << "tp " << tp << " rank " << rank);
    auto plan = MakeShardPlan(config, tp, rank);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->query_heads.begin, next_head);
    EXPECT_EQ(plan->ffn.begin, next_ffn);
    EXPECT_EQ(plan->vocab.begin, next_vocab);
    EXPECT_GT(plan->query_heads.size(), 0);
    EXPECT_GT(plan->ffn.size(), 0);
    EXPECT_GT(plan->vocab.size(), 0);
    next_head = plan->query_heads.end;
    next_ffn = plan->ffn.end;
    next_vocab = plan->vocab.end;
    // Uneven by at most one unit.
    EXPECT_LE(plan->query_heads.size(), (config.num_query_heads + tp - 1) / tp);
    EXPECT_GE(plan->query_heads.size(), config.num_query_heads / tp);
    EXPECT_LE(plan->vocab.size(), plan->max_vocab_rows);
    if (rank < tp - 1) {
      EXPECT_EQ(plan->vocab.size(), plan->max_vocab_rows);
    }
    EXPECT_EQ(plan->vocab.begin, rank * plan->max_vocab_rows);
    // KV heads may be shared by neighbours, but none is left out.
    EXPECT_LE(plan->kv_heads.begin, last_kv);
    last_kv = plan->kv_heads.end;

    const HeadLayout heads = plan->Heads(config);
    EXPECT_EQ(heads.num_query_heads, plan->query_heads.size());
    EXPECT_EQ(heads.num_kv_heads, plan->kv_heads.size());
    EXPECT_EQ(heads.head_dim, config.head_dim);
    for (int64_t i = 0; i < heads.num_query_heads; ++i) {
      const int64_t local_kv = (i + heads.query_offset) / heads.queries_per_kv;
      ASSERT_LT(local_kv, heads.num_kv_heads);
      EXPECT_EQ(plan->kv_heads.begin + local_kv, (plan->query_heads.begin + i) / queries_per_kv);
    }
  }
  EXPECT_EQ(next_head, config.num_query_heads);
  EXPECT_EQ(next_ffn, config.ffn_size);
  EXPECT_EQ(next_vocab, config.vocab_size);
  EXPECT_EQ(last_kv, config.num_kv_heads);
}

TEST(ShardPlanTest, CoversEveryReleasedModelAtEveryDegree) {
  for (const ReleasedModel& model : ReleasedModels()) {
    SCOPED_TRACE(model.name);
    const ModelConfig config = *ParseModelConfig(*ParseJson(model.config_json, "x"), "x");
    for (int tp = 1; tp <= config.num_query_heads; ++tp) CheckPlans(config, tp);
  }
}

TEST(ShardPlanTest, CoversOddShapes) {
  for (const int64_t ffn : {7, 96, 128, 200, 352, 1000}) {
    for (const int64_t vocab : {101, 256, 1000}) {
      for (int tp = 1; tp <= 7; ++tp) CheckPlans(Tiny(7, 7, ffn, vocab), tp);
      for (int tp = 1; tp <= 6; ++tp) CheckPlans(Tiny(6, 2, ffn, vocab), tp);
    }
  }
}

TEST(ShardPlanTest, FfnSplitsBetweenGroupsOf128) {
  // Qwen-14B: 13696 = 107 groups, so 54 and 53.
  const ModelConfig config = Tiny(40, 40, 13696, 152064);
  EXPECT_EQ(MakeShardPlan(config, 2, 0)->ffn.size(), 54 * 128);
  EXPECT_EQ(MakeShardPlan(config, 2, 1)->ffn.size(), 53 * 128);
  for (int tp = 1; tp <= 40; ++tp) {
    for (int rank = 0; rank < tp; ++rank) {
      EXPECT_EQ(MakeShardPlan(config, tp, rank)->ffn.begin % 128, 0);
    }
  }
}

TEST(ShardPlanTest, SharesKvHeadsWhereRanksOutnumberThem) {
  // Qwen2-7B: 28 query heads on 4 KV heads, 7 each. At tp 3 rank 1 has heads 10..18.
  const ModelConfig config = Tiny(28, 4, 18944, 152064);
  const ShardPlan plan = *MakeShardPlan(config, 3, 1);
  EXPECT_EQ(plan.query_heads.begin, 10);
  EXPECT_EQ(plan.query_heads.end, 19);
  EXPECT_EQ(plan.kv_heads.begin, 1);
  EXPECT_EQ(plan.kv_heads.end, 3);
  EXPECT_EQ(plan.Heads(config).query_offset, 3);
}

TEST(ShardPlanTest, RefusesImpossibleDegreesWithTheNumbers) {
  const ModelConfig config = Tiny(14, 2, 4864, 151936);
  for (const int tp : {0, -1, 15}) {
    const absl::Status status = MakeShardPlan(config, tp, 0).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr(std::to_string(tp)));
    EXPECT_THAT(status.message(), HasSubstr("14"));
  }
  EXPECT_THAT(MakeShardPlan(Tiny(8, 8, 4, 100), 5, 0).status().message(), HasSubstr("4 wide"));
  // ceil(10 / 7) = 2 rows each would leave ranks 5 and 6 none.
  EXPECT_THAT(MakeShardPlan(Tiny(8, 8, 64, 10), 7, 0).status().message(), HasSubstr("10 vocab"));
}

}  // namespace
}  // namespace qwenserve
