#include "tests/engine/loader/loaded_weights.h"

#include <map>

#include "engine/model/weight_map.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

const LinearWeight& MatrixOf(const ModelWeights& weights, const WeightPart& part) {
  switch (part.field) {
    case WeightField::kEmbedding:
      return weights.embedding;
    case WeightField::kHead:
      return weights.Head();
    case WeightField::kQkv:
      return weights.layers[part.layer].qkv;
    case WeightField::kAttnOut:
      return weights.layers[part.layer].attn_out;
    case WeightField::kGateUp:
      return weights.layers[part.layer].gate_up;
    default:
      return weights.layers[part.layer].down;
  }
}

}  // namespace

std::vector<float> LoadedRow(const LinearWeight& weight, int64_t row, Backend& backend) {
  std::vector<float> out(static_cast<size_t>(weight.in_features));
  const auto id = static_cast<int32_t>(row);
  backend.Embed(&id, 1, weight, 0, out.data());
  EXPECT_TRUE(backend.Sync().ok());
  return out;
}

void ExpectMatrices(const ModelWeights& weights, const ModelConfig& config, const ShardPlan& shard,
                    Backend& backend, const ExpectedRow& expected) {
  std::map<const LinearWeight*, int64_t> rows;  // compared so far
  for (const WeightPart& part : WeightParts(config, shard)) {
    if (IsVector(part.field)) continue;
    const LinearWeight& matrix = MatrixOf(weights, part);
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      const std::vector<float> whole = expected(part.tensor, row);
      ASSERT_EQ(static_cast<int64_t>(whole.size()), part.shape[1]);
      const std::vector<float> mine(whole.begin() + part.columns.begin,
                                    whole.begin() + part.columns.end);
      ASSERT_EQ(LoadedRow(matrix, rows[&matrix]++, backend), mine) << part.tensor << " row " << row;
    }
  }
  for (const LinearWeight* table : {&weights.embedding, &weights.Head()}) {
    for (; rows[table] < shard.max_vocab_rows; ++rows[table]) {
      EXPECT_EQ(LoadedRow(*table, rows[table], backend),
                std::vector<float>(static_cast<size_t>(config.hidden_size), 0.0f));
    }
  }
  for (const auto& [matrix, compared] : rows) EXPECT_EQ(matrix->out_features, compared);
}

int64_t HeldBytes(const ModelWeights& weights) {
  size_t bytes = weights.embedding.bytes() + weights.head.bytes() + weights.final_norm.bytes();
  for (const LayerWeights& layer : weights.layers) {
    for (const auto* matrix : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down}) {
      bytes += matrix->bytes();
    }
    for (const auto* vector : {&layer.input_norm, &layer.post_attn_norm, &layer.qkv_bias,
                               &layer.q_norm, &layer.k_norm}) {
      bytes += vector->bytes();
    }
  }
  return static_cast<int64_t>(bytes);
}

}  // namespace qwenserve
