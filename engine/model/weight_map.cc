#include "engine/model/weight_map.h"

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/types/span.h"

namespace qwenserve {
namespace {

// What the entries along one axis of a tensor are, which decides its length and how tensor
// parallelism cuts it: hidden and head_dim are replicated, the others are cut.
enum class Axis { kNone, kHidden, kHeadDim, kQueryHeads, kKvHeads, kFfn, kVocab };

// {layer} in the name stands for the layer's number. A fused tensor stacks `pieces` blocks of rows
// of equal height, and the rule takes number `piece`.
struct TensorRule {
  WeightField field;
  absl::string_view name;
  Axis rows;
  Axis columns;
  int piece = 0;
  int pieces = 1;
};

constexpr TensorRule kQwen1Rules[] = {
    {WeightField::kEmbedding, "transformer.wte.weight", Axis::kVocab, Axis::kHidden},
    {WeightField::kHead, "lm_head.weight", Axis::kVocab, Axis::kHidden},
    {WeightField::kFinalNorm, "transformer.ln_f.weight", Axis::kHidden, Axis::kNone},
};

// c_attn stacks all query heads, all key heads and all value heads. w2 is the gate, w1 is up.
constexpr TensorRule kQwen1LayerRules[] = {
    {WeightField::kInputNorm, "transformer.h.{layer}.ln_1.weight", Axis::kHidden, Axis::kNone},
    {WeightField::kQkv, "transformer.h.{layer}.attn.c_attn.weight", Axis::kQueryHeads,
     Axis::kHidden, 0, 3},
    {WeightField::kQkv, "transformer.h.{layer}.attn.c_attn.weight", Axis::kKvHeads, Axis::kHidden,
     1, 3},
    {WeightField::kQkv, "transformer.h.{layer}.attn.c_attn.weight", Axis::kKvHeads, Axis::kHidden,
     2, 3},
    {WeightField::kQkvBias, "transformer.h.{layer}.attn.c_attn.bias", Axis::kQueryHeads,
     Axis::kNone, 0, 3},
    {WeightField::kQkvBias, "transformer.h.{layer}.attn.c_attn.bias", Axis::kKvHeads, Axis::kNone,
     1, 3},
    {WeightField::kQkvBias, "transformer.h.{layer}.attn.c_attn.bias", Axis::kKvHeads, Axis::kNone,
     2, 3},
    {WeightField::kAttnOut, "transformer.h.{layer}.attn.c_proj.weight", Axis::kHidden,
     Axis::kQueryHeads},
    {WeightField::kPostAttnNorm, "transformer.h.{layer}.ln_2.weight", Axis::kHidden, Axis::kNone},
    {WeightField::kGateUp, "transformer.h.{layer}.mlp.w2.weight", Axis::kFfn, Axis::kHidden},
    {WeightField::kGateUp, "transformer.h.{layer}.mlp.w1.weight", Axis::kFfn, Axis::kHidden},
    {WeightField::kDown, "transformer.h.{layer}.mlp.c_proj.weight", Axis::kHidden, Axis::kFfn},
};

constexpr TensorRule kQwen2Rules[] = {
    {WeightField::kEmbedding, "model.embed_tokens.weight", Axis::kVocab, Axis::kHidden},
    {WeightField::kHead, "lm_head.weight", Axis::kVocab, Axis::kHidden},
    {WeightField::kFinalNorm, "model.norm.weight", Axis::kHidden, Axis::kNone},
};

// Qwen1.5 to 3. Biases and head norms are skipped where the configuration has none.
constexpr TensorRule kQwen2LayerRules[] = {
    {WeightField::kInputNorm, "model.layers.{layer}.input_layernorm.weight", Axis::kHidden,
     Axis::kNone},
    {WeightField::kQkv, "model.layers.{layer}.self_attn.q_proj.weight", Axis::kQueryHeads,
     Axis::kHidden},
    {WeightField::kQkv, "model.layers.{layer}.self_attn.k_proj.weight", Axis::kKvHeads,
     Axis::kHidden},
    {WeightField::kQkv, "model.layers.{layer}.self_attn.v_proj.weight", Axis::kKvHeads,
     Axis::kHidden},
    {WeightField::kQkvBias, "model.layers.{layer}.self_attn.q_proj.bias", Axis::kQueryHeads,
     Axis::kNone},
    {WeightField::kQkvBias, "model.layers.{layer}.self_attn.k_proj.bias", Axis::kKvHeads,
     Axis::kNone},
    {WeightField::kQkvBias, "model.layers.{layer}.self_attn.v_proj.bias", Axis::kKvHeads,
     Axis::kNone},
    {WeightField::kQNorm, "model.layers.{layer}.self_attn.q_norm.weight", Axis::kHeadDim,
     Axis::kNone},
    {WeightField::kKNorm, "model.layers.{layer}.self_attn.k_norm.weight", Axis::kHeadDim,
     Axis::kNone},
    {WeightField::kAttnOut, "model.layers.{layer}.self_attn.o_proj.weight", Axis::kHidden,
     Axis::kQueryHeads},
    {WeightField::kPostAttnNorm, "model.layers.{layer}.post_attention_layernorm.weight",
     Axis::kHidden, Axis::kNone},
    {WeightField::kGateUp, "model.layers.{layer}.mlp.gate_proj.weight", Axis::kFfn, Axis::kHidden},
    {WeightField::kGateUp, "model.layers.{layer}.mlp.up_proj.weight", Axis::kFfn, Axis::kHidden},
    {WeightField::kDown, "model.layers.{layer}.mlp.down_proj.weight", Axis::kHidden, Axis::kFfn},
};

struct AxisExtent {
  int64_t whole;
  Range mine;
};

AxisExtent ExtentOf(Axis axis, const ModelConfig& config, const ShardPlan& shard) {
  const auto heads = [&](int64_t count, Range range) {
    return AxisExtent{count * config.head_dim,
                      {range.begin * config.head_dim, range.end * config.head_dim}};
  };
  switch (axis) {
    case Axis::kNone:
      return {1, {0, 1}};
    case Axis::kHidden:
      return {config.hidden_size, {0, config.hidden_size}};
    case Axis::kHeadDim:
      return {config.head_dim, {0, config.head_dim}};
    case Axis::kQueryHeads:
      return heads(config.num_query_heads, shard.query_heads);
    case Axis::kKvHeads:
      return heads(config.num_kv_heads, shard.kv_heads);
    case Axis::kFfn:
      return {config.ffn_size, shard.ffn};
    case Axis::kVocab:
      return {config.vocab_size, shard.vocab};
  }
  return {0, {}};
}

bool IsPresent(WeightField field, const ModelConfig& config) {
  switch (field) {
    case WeightField::kHead:
      return !config.tied_embeddings;
    case WeightField::kQkvBias:
      return config.qkv_bias;
    case WeightField::kQNorm:
    case WeightField::kKNorm:
      return config.qk_norm;
    default:
      return true;
  }
}

void Append(absl::Span<const TensorRule> rules, int64_t layer, const ModelConfig& config,
            const ShardPlan& shard, std::vector<WeightPart>& parts) {
  for (const TensorRule& rule : rules) {
    if (!IsPresent(rule.field, config)) continue;
    const AxisExtent rows = ExtentOf(rule.rows, config, shard);
    const AxisExtent columns = ExtentOf(rule.columns, config, shard);
    const int64_t first = rule.piece * rows.whole;
    WeightPart part;
    part.field = rule.field;
    part.layer = layer;
    part.tensor = absl::StrReplaceAll(rule.name, {{"{layer}", std::to_string(layer)}});
    part.shape = {rule.pieces * rows.whole};
    if (rule.columns != Axis::kNone) part.shape.push_back(columns.whole);
    part.rows = {first + rows.mine.begin, first + rows.mine.end};
    part.columns = columns.mine;
    parts.push_back(std::move(part));
  }
}

}  // namespace

bool IsVector(WeightField field) {
  switch (field) {
    case WeightField::kFinalNorm:
    case WeightField::kInputNorm:
    case WeightField::kQkvBias:
    case WeightField::kQNorm:
    case WeightField::kKNorm:
    case WeightField::kPostAttnNorm:
      return true;
    default:
      return false;
  }
}

std::vector<WeightPart> WeightParts(const ModelConfig& config, const ShardPlan& shard) {
  const bool first_generation = config.style == CheckpointStyle::kQwen1;
  const auto rules = first_generation ? absl::MakeConstSpan(kQwen1Rules) : kQwen2Rules;
  const auto layer_rules =
      first_generation ? absl::MakeConstSpan(kQwen1LayerRules) : kQwen2LayerRules;
  std::vector<WeightPart> parts;
  Append(rules, -1, config, shard, parts);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    Append(layer_rules, layer, config, shard, parts);
  }
  return parts;
}

bool IsIgnoredTensor(absl::string_view name) {
  for (const absl::string_view suffix :
       {"rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attn.logn_tensor"}) {
    if (absl::EndsWith(name, suffix)) return true;
  }
  return false;
}

}  // namespace qwenserve
