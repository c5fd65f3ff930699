#include "engine/schedule/batch_builder.h"

#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Qwen1 with a training length of 4: other rope tables and query scales beyond.
ModelConfig Config() {
  ModelConfig config;
  config.style = CheckpointStyle::kQwen1;
  config.hidden_size = 8;
  config.num_query_heads = config.num_kv_heads = 1;
  config.head_dim = 8;
  config.vocab_size = 50;
  config.max_positions = 64;
  config.ntk_train_length = 4;
  config.logn_train_length = 4;
  return config;
}

PlanSequence Part(int64_t first, std::vector<int32_t> ids, int64_t prompt,
                  std::vector<int32_t> blocks, bool wants_logits) {
  PlanSequence part;
  part.first_position = first;
  part.ids = std::move(ids);
  part.prompt_tokens = prompt;
  part.blocks = std::move(blocks);
  part.wants_logits = wants_logits;
  return part;
}

class BatchBuilderTest : public testing::Test {
 protected:
  absl::Status Build(const StepPlan& plan) {
    return BuildBatch(plan, config_, limits_, previous_, rope_, &batch_);
  }

  const ModelConfig config_ = Config();
  const BatchLimits limits_ = {
      .max_rows = 6, .max_sequences = 3, .max_model_len = 32, .num_blocks = 10};
  const std::vector<int32_t> previous_ = {4, 6};  // logit rows
  std::unique_ptr<Backend> backend_ = *MakeCpuBackend({});
  const RopeTables rope_ = *RopeTables::Create(config_, 32, *backend_);
  HostBatch batch_;
};

TEST_F(BatchBuilderTest, SpellsOutEveryRow) {
  StepPlan plan;
  plan.sequences.push_back(Part(15, {1, 2}, 20, {7, 3}, false));
  plan.sequences.push_back(Part(2, {9}, 3, {5}, true));
  plan.sequences.push_back(Part(3, {0}, 2, {6}, true));
  plan.sequences[2].sampled_by_row = 1;
  ASSERT_TRUE(Build(plan).ok()) << Build(plan);
  EXPECT_THAT(batch_.ids, ElementsAre(1, 2, 9, -1 - 6));
  EXPECT_THAT(batch_.positions, ElementsAre(15, 16, 2, 3));
  EXPECT_THAT(batch_.sequences, ElementsAre(0, 0, 1, 2));
  EXPECT_THAT(batch_.row_starts, ElementsAre(0, 2, 3, 4));
  EXPECT_EQ(batch_.max_blocks, 2);
  EXPECT_EQ(batch_.max_sequence_rows, 2);
  EXPECT_FALSE(batch_.one_draw_each);
  EXPECT_THAT(batch_.block_tables, ElementsAre(7, 3, 5, 0, 6, 0));
  EXPECT_THAT(batch_.logit_rows, ElementsAre(2, 3));
  // Short prompts share a table, the long one has its own.
  EXPECT_EQ(batch_.rope_tables[0], batch_.rope_tables[1]);
  EXPECT_NE(batch_.rope_tables[0], batch_.rope_tables[2]);
  EXPECT_EQ(batch_.rope_tables[2], batch_.rope_tables[3]);
  EXPECT_FLOAT_EQ(batch_.query_scales[0], 2.0f);  // log_4(16)
  EXPECT_GT(batch_.query_scales[1], 2.0f);
  EXPECT_EQ(batch_.query_scales[2], 1.0f);
}

TEST_F(BatchBuilderTest, RefusesPlansBeyondTheLimits) {
  const auto message = [&](PlanSequence part) {
    StepPlan plan;
    plan.sequences = {std::move(part)};
    const absl::Status status = Build(plan);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    return std::string(status.message());
  };
  EXPECT_THAT(message(Part(0, {1, 2, 3, 4, 5, 6, 7}, 7, {0}, true)), HasSubstr("7 rows"));
  EXPECT_THAT(message(Part(32, {1}, 7, {0, 1, 2}, true)), HasSubstr("positions 32 to 33"));
  EXPECT_THAT(message(Part(0, {50}, 7, {0}, true)), HasSubstr("id 50"));
  EXPECT_THAT(message(Part(0, {1}, 7, {10}, true)), HasSubstr("block 10"));
  EXPECT_THAT(message(Part(16, {1}, 7, {1}, true)), HasSubstr("1 blocks"));
  EXPECT_THAT(message(Part(0, {1}, 33, {0}, true)), HasSubstr("a prompt of 33"));
  PlanSequence late = Part(0, {1}, 7, {1}, true);
  late.sampled_by_row = 2;
  EXPECT_THAT(message(late), HasSubstr("row 2"));
  EXPECT_EQ(Build(StepPlan()).code(), absl::StatusCode::kInternal);
}

TEST_F(BatchBuilderTest, StepsOfOneRowEachHaveFewShapes) {
  StepPlan plan;
  plan.sequences.push_back(Part(4, {1}, 3, {7}, true));
  plan.sequences.push_back(Part(17, {2}, 18, {8, 9}, true));
  ASSERT_TRUE(Build(plan).ok());
  ASSERT_TRUE(batch_.one_draw_each);
  FillUp(4, &batch_);
  EXPECT_THAT(batch_.ids, ElementsAre(1, 2, 0, 0));
  EXPECT_THAT(batch_.positions, ElementsAre(4, 17, -1, -1));
  EXPECT_THAT(batch_.sequences, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(batch_.row_starts, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(batch_.logit_rows, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(batch_.block_tables, ElementsAre(7, 0, 8, 9, 0, 0, 0, 0));
  EXPECT_THAT(batch_.query_scales, SizeIs(4));
  EXPECT_THAT(batch_.rope_tables, SizeIs(4));
  EXPECT_EQ(batch_.max_sequence_rows, 1);
  // Scores, prompts and rows that draw nothing have other shapes.
  plan.sequences[1].wants_logits = false;
  ASSERT_TRUE(Build(plan).ok());
  EXPECT_FALSE(batch_.one_draw_each);
}

TEST(BlockBucket, IsNeverMoreThanHalfTooLarge) {
  std::set<int64_t> widths;
  for (int64_t blocks = 1; blocks <= 2048; ++blocks) {
    const int64_t width = BlockBucket(blocks, 2000);
    EXPECT_GE(width, std::min<int64_t>(blocks, 2000));
    EXPECT_LE(width, std::min<int64_t>(blocks + blocks / 2, 2000));
    widths.insert(width);
  }
  EXPECT_LE(widths.size(), 22);
  EXPECT_EQ(BlockBucket(5, 100), 6);
  EXPECT_EQ(BlockBucket(7, 100), 8);
}

TEST_F(BatchBuilderTest, UploadsWhatItBuilt) {
  auto device = DeviceBatch::Create(limits_, *backend_);
  ASSERT_TRUE(device.ok()) << device.status();
  StepPlan plan;
  plan.sequences.push_back(Part(0, {1, 2, 3}, 3, {7}, true));
  ASSERT_TRUE(Build(plan).ok());
  const ForwardBatch batch = device->Upload(batch_, *backend_);
  EXPECT_EQ(batch.attention.num_rows, 3);
  EXPECT_EQ(batch.attention.num_sequences, 1);
  EXPECT_EQ(batch.num_logit_rows, 1);
  std::vector<int32_t> ids(3), blocks(1);
  backend_->CopyToHost(batch.ids, 12, ids.data());
  backend_->CopyToHost(batch.attention.block_tables, 4, blocks.data());
  EXPECT_THAT(ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(blocks, ElementsAre(7));

  // Other arrays, the same addresses.
  plan.sequences = {Part(17, {4}, 18, {1, 2}, true), Part(2, {5}, 3, {3}, true)};
  ASSERT_TRUE(Build(plan).ok());
  FillUp(3, &batch_);
  const ForwardBatch second = device->Upload(batch_, *backend_);
  EXPECT_EQ(second.ids, batch.ids);
  EXPECT_EQ(second.ids, device->ids());
  EXPECT_EQ(second.attention.positions, batch.attention.positions);
  EXPECT_EQ(second.attention.row_starts, batch.attention.row_starts);
  EXPECT_EQ(second.attention.block_tables, batch.attention.block_tables);
  EXPECT_EQ(second.logit_rows, batch.logit_rows);
  EXPECT_EQ(second.attention.num_sequences, 3);
  std::vector<int32_t> tables(6);
  backend_->CopyToHost(second.attention.block_tables, 24, tables.data());
  EXPECT_THAT(tables, ElementsAre(1, 2, 3, 0, 0, 0));
  std::vector<float> scales(3);
  backend_->CopyToHost(second.attention.query_scales, 12, scales.data());
  EXPECT_EQ(scales, batch_.query_scales);
}

}  // namespace
}  // namespace qwenserve
