#include "engine/model/weight_map.h"

#include <map>
#include <set>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "gtest/gtest.h"
#include "tests/engine/model/released_models.h"

namespace qwenserve {
namespace {

ModelConfig ConfigOf(const std::string& name) {
  for (const ReleasedModel& model : ReleasedModels()) {
    if (model.name == name) return *ParseModelConfig(*ParseJson(model.config_json, "x"), "x");
  }
  ADD_FAILURE() << name;
  return {};
}

int64_t Product(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

// The totals are those of the published checkpoints' index files, so they prove every shape.
TEST(WeightMapTest, CountsTheParametersOfPublishedCheckpoints) {
  const struct {
    const char* name;
    size_t tensors;
    int64_t bf16_bytes;
  } kTotals[] = {{"Qwen-1.8B", 195, 3673657344},
                 {"Qwen-7B", 259, 15442649088},
                 {"Qwen-14B", 323, 28334581760},
                 {"Qwen-72B", 643, 144575840256}};
  for (const auto& total : kTotals) {
    const ModelConfig config = ConfigOf(total.name);
    std::map<std::string, int64_t> elements;
    for (const WeightPart& part : WeightParts(config, *MakeShardPlan(config, 1, 0))) {
      elements[part.tensor] = Product(part.shape);
    }
    int64_t sum = 0;
    for (const auto& [name, count] : elements) sum += count;
    EXPECT_EQ(elements.size(), total.tensors) << total.name;
    EXPECT_EQ(2 * sum, total.bf16_bytes) << total.name;
  }
}

TEST(WeightMapTest, NamesTheTensorsOfEachFamily) {
  const auto names = [](const std::string& model) {
    const ModelConfig config = ConfigOf(model);
    std::set<std::string> set;
    for (const WeightPart& part : WeightParts(config, *MakeShardPlan(config, 1, 0))) {
      set.insert(part.tensor);
    }
    return set;
  };
  EXPECT_TRUE(names("Qwen-7B").contains("transformer.h.31.attn.c_attn.bias"));
  EXPECT_TRUE(names("Qwen2-7B").contains("model.layers.27.self_attn.k_proj.bias"));
  EXPECT_FALSE(names("Qwen2-7B").contains("model.layers.0.self_attn.k_norm.weight"));
  EXPECT_FALSE(names("Qwen3-8B").contains("model.layers.0.self_attn.k_proj.bias"));
  EXPECT_TRUE(names("Qwen3-8B").contains("model.layers.35.self_attn.k_norm.weight"));
  EXPECT_TRUE(names("Qwen3-8B").contains("lm_head.weight"));
  EXPECT_FALSE(names("Qwen3-0.6B").contains("lm_head.weight"));  // tied
}

// Over all ranks every element of every tensor is taken; more than once only where it is replicated
// or where ranks share a KV head.
TEST(WeightMapTest, RanksTakeEveryElement) {
  for (const char* name : {"Qwen-14B", "Qwen1.5-0.5B", "Qwen2-0.5B", "Qwen2-7B", "Qwen3-0.6B"}) {
    const ModelConfig config = ConfigOf(name);
    for (const int tp : {1, 2, 3, 5}) {
      // Per part and rank, the next row or column that nobody has taken yet.
      absl::flat_hash_map<std::string, int64_t> taken;
      for (int rank = 0; rank < tp; ++rank) {
        const auto parts = WeightParts(config, *MakeShardPlan(config, tp, rank));
        for (size_t i = 0; i < parts.size(); ++i) {
          const WeightPart& part = parts[i];
          const bool by_column = part.shape.size() == 2 && part.columns.size() < part.shape[1];
          const Range range = by_column ? part.columns : part.rows;
          int64_t& next = taken.try_emplace(std::to_string(i), range.begin).first->second;
          EXPECT_LE(range.begin, next) << name << " " << part.tensor << " tp " << tp;
          EXPECT_GE(range.end, next);
          next = range.end;
          EXPECT_LE(part.rows.end, part.shape[0]);
          if (part.shape.size() == 2) {
            EXPECT_LE(part.columns.end, part.shape[1]);
          }
        }
      }
    }
  }
}

// Qwen1 stacks all query, all key and all value heads: a rank takes its heads from each third.
TEST(WeightMapTest, SplitsTheFusedAttentionOfQwen1ByHeads) {
  const ModelConfig config = ConfigOf("Qwen-7B");
  std::vector<Range> rows;
  for (const WeightPart& part : WeightParts(config, *MakeShardPlan(config, 4, 1))) {
    if (part.tensor == "transformer.h.3.attn.c_attn.weight") rows.push_back(part.rows);
  }
  ASSERT_EQ(rows.size(), 3u);
  for (int third = 0; third < 3; ++third) {
    EXPECT_EQ(rows[third].begin, third * 4096 + 1024);
    EXPECT_EQ(rows[third].end, third * 4096 + 2048);
  }
}

// w2 is the gate and w1 is up; the gate's rows come first.
TEST(WeightMapTest, PutsTheGateFirst) {
  const ModelConfig config = ConfigOf("Qwen-1.8B");
  std::vector<std::string> tensors;
  for (const WeightPart& part : WeightParts(config, *MakeShardPlan(config, 1, 0))) {
    if (part.layer == 0 && part.field == WeightField::kGateUp) tensors.push_back(part.tensor);
  }
  EXPECT_EQ(tensors, (std::vector<std::string>{"transformer.h.0.mlp.w2.weight",
                                               "transformer.h.0.mlp.w1.weight"}));
}

TEST(WeightMapTest, IgnoresOnlyTablesAndMasks) {
  EXPECT_TRUE(IsIgnoredTensor("model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_TRUE(IsIgnoredTensor("transformer.rotary_emb.inv_freq"));
  EXPECT_TRUE(IsIgnoredTensor("transformer.h.0.attn.bias"));
  EXPECT_TRUE(IsIgnoredTensor("transformer.h.0.attn.masked_bias"));
  EXPECT_FALSE(IsIgnoredTensor("transformer.h.0.attn.c_attn.bias"));
  EXPECT_FALSE(IsIgnoredTensor("model.layers.0.self_attn.q_proj.bias"));
}

}  // namespace
}  // namespace qwenserve
