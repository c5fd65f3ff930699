#include "engine/runtime/memory_plan.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/cache/kv_cache.h"
#include "engine/parallel/group_communicator.h"
#include "engine/runtime/model_runner.h"
#include "engine/runtime/rank_team.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/loaded_weights.h"
#include "tests/engine/runtime/limited_backend.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::unique_ptr<Checkpoint> Open(const std::string& dir) {
  auto checkpoint = Checkpoint::Open(dir);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
}

// Heads, columns and vocabulary that two and three ranks can't share evenly.
TinyModel UnevenModel() {
  TinyModel model;
  model.hidden_size = 96;
  model.num_query_heads = 6;
  model.num_kv_heads = 3;
  model.ffn_size = 160;
  model.vocab_size = 331;
  return model;
}

// What the loader holds of one rank's weights, on the CPU.
int64_t LoadedOnCpu(const Checkpoint& checkpoint, WeightChoice choice, int tp, int rank) {
  const auto backend = MakeCpuBackend({});
  const auto shard = MakeShardPlan(checkpoint.config(), tp, rank);
  const auto weights = LoadWeights(checkpoint, *shard, choice, **backend, nullptr);
  EXPECT_TRUE(weights.ok()) << weights.status();
  return weights.ok() ? HeldBytes(*weights) : 0;
}

TEST(MemoryPlanTest, WeightsAreWhatTheLoaderHolds) {
  for (const char* architecture : {"QWenLMHeadModel", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    TinyModel model = UnevenModel();
    model.architecture = architecture;
    if (model.architecture == "QWenLMHeadModel") model.num_kv_heads = model.num_query_heads;
    const auto checkpoint = Open(WriteTinyCheckpoint("plan", model));
    for (const WeightChoice choice :
         {WeightChoice::kAuto, WeightChoice::kInt8, WeightChoice::kInt4}) {
      for (const int tp : {1, 2, 3}) {
        MemoryRequest request;
        request.weights = choice;
        request.tp = tp;
        const auto ranks = PlanMemory(checkpoint->config(), request);
        ASSERT_TRUE(ranks.ok()) << ranks.status();
        for (int rank = 0; rank < tp; ++rank) {
          EXPECT_EQ((*ranks)[rank].weights, LoadedOnCpu(*checkpoint, choice, tp, rank))
              << architecture << " " << WeightChoiceName(choice) << " rank " << rank << "/" << tp;
        }
      }
    }
  }
}

TEST(MemoryPlanTest, WeightsOfQuantisedCheckpointsAreKnownFromTheConfiguration) {
  std::vector<QuantizedStyle> styles = {
      {.bits = 4, .group_size = 32},
      {.bits = 8, .group_size = 64},
      {.bits = 4, .group_size = -1},
      {.bits = 4, .group_size = 32, .symmetric = false},
      {.method = "awq", .group_size = 32, .symmetric = false},
      {.bits = 4, .group_size = 32, .act_order = true},
  };
  TinyModel model;
  model.ffn_size = 192;
  for (const QuantizedStyle& style : styles) {
    const auto checkpoint = Open(WriteTinyQuantized("plan_quantised", model, style));
    ASSERT_NE(checkpoint, nullptr);
    for (const WeightChoice choice :
         {WeightChoice::kAuto, style.bits == 4 ? WeightChoice::kInt4 : WeightChoice::kInt8}) {
      for (const int tp : {1, 2}) {
        // How a rank's part of act-order groups is filled up depends on the order itself.
        if (style.act_order && tp > 1) continue;
        MemoryRequest request;
        request.weights = choice;
        request.tp = tp;
        const auto ranks = PlanMemory(checkpoint->config(), request);
        ASSERT_TRUE(ranks.ok()) << ranks.status();
        for (int rank = 0; rank < tp; ++rank) {
          EXPECT_EQ((*ranks)[rank].weights, LoadedOnCpu(*checkpoint, choice, tp, rank))
              << style.method << " " << style.bits << " bits, groups of " << style.group_size
              << ", symmetric " << style.symmetric << ", rank " << rank << "/" << tp;
        }
      }
    }
  }
  MemoryRequest request;
  request.weights = WeightChoice::kInt8;
  const auto checkpoint = Open(WriteTinyQuantized("plan_quantised", model, {}));
  EXPECT_TRUE(absl::IsInvalidArgument(PlanMemory(checkpoint->config(), request).status()));
}

// --- Against a rank that takes its memory -----------------------------------------------------

// Settings of all ranks, each on a device of its own of so many bytes.
struct Devices {
  Devices(const std::string& dir, int tp, std::vector<size_t> total)
      : totals(std::move(total)), taken(totals.size(), 0) {
    for (int rank = 0; rank < tp; ++rank) {
      RankSettings settings;
      settings.model_dir = dir;
      settings.tp = tp;
      settings.rank = rank;
      settings.limits = {32, 4, 512, 0};
      settings.kv_sizing = {.memory_fraction = 0.9, .most_blocks = 1 << 20, .may_shorten = true};
      settings.wrap_backend = [this, rank](std::unique_ptr<Backend> device) {
        return std::make_unique<LimitedBackend>(std::move(device), totals[rank], &taken[rank]);
      };
      ranks.push_back(std::move(settings));
    }
  }

  absl::StatusOr<std::unique_ptr<RankTeam>> Start(const Checkpoint& checkpoint) {
    return RankTeam::Start(
        ranks, RankMode::kThreads, "", {}, checkpoint, [] {}, nullptr);
  }

  const std::vector<size_t> totals;
  std::vector<size_t> taken;
  std::vector<RankSettings> ranks;
};

constexpr size_t kMebibyte = 1 << 20;

TEST(MemoryPlanTest, ARankTakesWhatWasPlanned) {
  const std::string dir = WriteTinyCheckpoint("plan_rank", UnevenModel());
  const auto checkpoint = Open(dir);
  for (const int tp : {1, 2, 3}) {
    Devices devices(dir, tp, std::vector<size_t>(static_cast<size_t>(tp), 64 * kMebibyte));
    for (RankSettings& rank : devices.ranks) rank.limits.num_blocks = 40;
    ASSERT_TRUE(devices.Start(*checkpoint).ok());
    const auto plan = PlanMemory(checkpoint->config(), RequestOf(devices.ranks[0]));
    ASSERT_TRUE(plan.ok()) << plan.status();
    for (int rank = 0; rank < tp; ++rank) {
      const RankMemory& planned = (*plan)[rank];
      EXPECT_EQ(static_cast<int64_t>(devices.taken[rank]),
                planned.weights + planned.step + 40 * planned.kv_block)
          << "rank " << rank << "/" << tp;
    }
  }
}

TEST(MemoryPlanTest, TheSmallestDeviceDecidesOnTheKvCache) {
  const std::string dir = WriteTinyCheckpoint("plan_auto", TinyModel());
  const auto checkpoint = Open(dir);
  const std::vector<size_t> kTotals = {8 * kMebibyte, 6 * kMebibyte};
  Devices devices(dir, 2, kTotals);
  const auto plan = PlanMemory(checkpoint->config(), RequestOf(devices.ranks[0]));
  ASSERT_TRUE(plan.ok());
  int64_t blocks = INT64_MAX;
  for (size_t rank = 0; rank < 2; ++rank) {
    const auto allowed = static_cast<int64_t>(0.9 * static_cast<double>(kTotals[rank]));
    blocks = std::min(blocks, (allowed - (*plan)[rank].fixed()) / (*plan)[rank].kv_block);
  }
  {
    const auto team = devices.Start(*checkpoint);
    ASSERT_TRUE(team.ok()) << team.status();
    EXPECT_EQ((*team)->leader().limits().num_blocks, blocks);
    EXPECT_EQ((*team)->leader().limits().max_model_len, 512);
  }
  for (size_t rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(static_cast<int64_t>(devices.taken[rank]),
              (*plan)[rank].fixed() + blocks * (*plan)[rank].kv_block);
  }

  Devices capped(dir, 2, kTotals);
  for (RankSettings& rank : capped.ranks) rank.kv_sizing.most_blocks = 64;
  const auto team = capped.Start(*checkpoint);
  ASSERT_TRUE(team.ok()) << team.status();
  EXPECT_EQ((*team)->leader().limits().num_blocks, 64);
}

TEST(MemoryPlanTest, ShortensTheContextOnlyWhereItMay) {
  const std::string dir = WriteTinyCheckpoint("plan_short", TinyModel());
  const auto checkpoint = Open(dir);
  RankSettings settings = Devices(dir, 1, {kMebibyte}).ranks[0];
  const auto plan = PlanMemory(checkpoint->config(), RequestOf(settings));
  ASSERT_TRUE(plan.ok());
  // Room for ten blocks and a half.
  const int64_t needed = plan->front().fixed() + plan->front().kv_block * 21 / 2;
  const auto total = static_cast<size_t>(static_cast<double>(needed) / 0.9);
  Devices devices(dir, 1, {total});
  {
    const auto team = devices.Start(*checkpoint);
    ASSERT_TRUE(team.ok()) << team.status();
    EXPECT_EQ((*team)->leader().limits().num_blocks, 10);
    EXPECT_EQ((*team)->leader().limits().max_model_len, 160);
  }
  Devices strict(dir, 1, {total});
  strict.ranks[0].kv_sizing.may_shorten = false;
  const absl::Status status = strict.Start(*checkpoint).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--max-model-len 1"));
  EXPECT_EQ(strict.taken[0], 0u) << "nothing is loaded where the plan says no";
}

TEST(MemoryPlanTest, OneRankWithoutRoomEndsAllWithItsArithmetic) {
  const std::string dir = WriteTinyCheckpoint("plan_none", TinyModel());
  const auto checkpoint = Open(dir);
  Devices devices(dir, 2, {64 * kMebibyte, 100'000});
  const absl::Status status = devices.Start(*checkpoint).status();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("does not fit"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("what would fit"));
}

// --- Models of real sizes ---------------------------------------------------------------------

ModelConfig ConfigOf(const char* text) {
  const auto json = ParseJson(text, "config");
  EXPECT_TRUE(json.ok());
  const auto config = ParseModelConfig(*json, "config");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

constexpr char kQwen72B[] = R"({"architectures": ["QWenLMHeadModel"], "hidden_size": 8192,
    "num_hidden_layers": 80, "num_attention_heads": 64, "kv_channels": 128,
    "intermediate_size": 49152, "vocab_size": 152064, "seq_length": 32768,
    "max_position_embeddings": 32768, "rotary_emb_base": 1000000, "use_dynamic_ntk": false,
    "use_logn_attn": false, "no_bias": true, "tie_word_embeddings": false})";
constexpr int64_t kGibibyte = int64_t{1} << 30;

MemoryRequest GpuRequest(int64_t length) {
  MemoryRequest request;
  request.device = DeviceKind::kCuda;
  request.max_sequences = 1;
  request.max_model_len = length;
  return request;
}

TEST(MemoryPlanTest, ALargeModelNamesWhatWouldFit) {
  const ModelConfig config = ConfigOf(kQwen72B);
  const auto plan = PlanMemory(config, GpuRequest(2048));
  ASSERT_TRUE(plan.ok()) << plan.status();
  // 144,575,840,256 bytes of tensors, of which norms and biases are held as float.
  EXPECT_NEAR(static_cast<double>(plan->front().weights), 144575840256.0, 1e7);
  EXPECT_EQ(plan->front().kv_block, 16 * 2560 * 1024);

  EXPECT_LT(BlocksThatFit(*plan, DeviceKind::kCuda, 80 * kGibibyte), 0);
  const std::string on_80 = WhatWouldFit(config, GpuRequest(2048), 73 * kGibibyte);
  EXPECT_EQ(on_80, "--weights int4, or --tp 2");
  const std::string on_48 = WhatWouldFit(config, GpuRequest(2048), 44 * kGibibyte);
  EXPECT_EQ(on_48, "--weights int4, or --tp 4");
  EXPECT_EQ(WhatWouldFit(config, GpuRequest(2048), 3 * kGibibyte), "nothing that this server has");
  // Long contexts: what would fit is named for the length, too.
  const std::string long_one = WhatWouldFit(config, GpuRequest(32768), 141 * kGibibyte);
  EXPECT_THAT(long_one, HasSubstr("--max-model-len "));
  EXPECT_THAT(long_one, HasSubstr("--tp 2"));
  EXPECT_THAT(long_one, Not(HasSubstr("--kv-dtype")));
  // Two changes where one is not enough.
  EXPECT_EQ(WhatWouldFit(config, GpuRequest(8192), 16 * kGibibyte), "--tp 4 --weights int4");
  EXPECT_EQ(WhatWouldFit(config, GpuRequest(2048), 6 * kGibibyte), "--tp 8 --weights int4");
}

TEST(MemoryPlanTest, WhatIsNamedFitsAndLessDoesNot) {
  const ModelConfig config = ConfigOf(kQwen72B);
  MemoryRequest request = GpuRequest(32768);
  const int64_t capacity = 100 * kGibibyte;
  request.weights = WeightChoice::kInt8;
  const std::string text = WhatWouldFit(config, request, capacity);
  int64_t length = 0;
  ASSERT_EQ(std::sscanf(text.c_str(), "--max-model-len %ld", &length), 1) << text;
  for (const int64_t more : {int64_t{0}, int64_t{kKvBlockSize}}) {
    request.max_model_len = length + more;
    const auto plan = PlanMemory(config, request);
    ASSERT_TRUE(plan.ok());
    const int64_t blocks = BlocksThatFit(*plan, DeviceKind::kCuda, capacity);
    EXPECT_EQ(blocks >= BlocksFor(length + more), more == 0);
  }
}

TEST(MemoryPlanTest, RanksDifferWhereTheModelDoesNotDivide) {
  const auto checkpoint = Open(WriteTinyCheckpoint("plan_uneven", UnevenModel()));
  MemoryRequest request;
  request.tp = 2;
  const auto ranks = PlanMemory(checkpoint->config(), request);
  ASSERT_TRUE(ranks.ok());
  EXPECT_GT((*ranks)[0].weights, (*ranks)[1].weights);
  EXPECT_EQ(&LargestRank(*ranks, 10), &(*ranks)[0]);
}

}  // namespace
}  // namespace qwenserve
