#include "engine/model/model_config.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/released_models.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ModelConfig> Parse(const std::string& text) {
  auto json = ParseJson(text, "test");
  if (!json.ok()) return json.status();
  return ParseModelConfig(*json, "config.json");
}

// A small valid configuration in the form of Qwen2 with `changes` merged into it.
std::string Small(const std::string& changes = "{}") {
  Json json = Json::parse(R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
      "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
      "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 100,
      "max_position_embeddings": 512, "rope_theta": 1000000.0})");
  json.merge_patch(Json::parse(changes));
  return json.dump();
}

std::string SmallQwen1(const std::string& changes = "{}") {
  Json json = Json::parse(R"({"architectures": ["QWenLMHeadModel"], "model_type": "qwen",
      "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 2,
      "num_hidden_layers": 2, "vocab_size": 100})");
  json.merge_patch(Json::parse(changes));
  return json.dump();
}

TEST(ModelConfigTest, ReadsEveryReleasedSize) {
  for (const ReleasedModel& model : ReleasedModels()) {
    SCOPED_TRACE(model.name);
    auto config = Parse(model.config_json);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->style, model.style);
    EXPECT_EQ(config->hidden_size, model.hidden);
    EXPECT_EQ(config->num_layers, model.layers);
    EXPECT_EQ(config->num_query_heads, model.query_heads);
    EXPECT_EQ(config->num_kv_heads, model.kv_heads);
    EXPECT_EQ(config->head_dim, model.head_dim);
    EXPECT_EQ(config->ffn_size, model.ffn);
    EXPECT_EQ(config->vocab_size, model.vocab);
    EXPECT_EQ(config->max_positions, model.max_positions);
    EXPECT_EQ(config->rope_base, model.rope_base);
    EXPECT_EQ(config->norm_epsilon, model.epsilon);
    EXPECT_EQ(config->tied_embeddings, model.tied);
    EXPECT_EQ(config->ntk_train_length, model.ntk);
    EXPECT_EQ(config->logn_train_length, model.logn);
    EXPECT_EQ(config->qkv_bias, model.style != CheckpointStyle::kQwen3);
    EXPECT_EQ(config->qk_norm, model.style == CheckpointStyle::kQwen3);
    EXPECT_FALSE(config->yarn.has_value());
  }
}

TEST(ModelConfigTest, ReadsTheKeysOfTheFirstQwen7BRelease) {
  auto config = Parse(R"({"activation": "swiglu", "architectures": ["QWenLMHeadModel"],
      "attn_pdrop": 0.0, "bos_token_id": 151643, "embd_pdrop": 0.0, "eos_token_id": 151643,
      "ffn_hidden_size": 22016, "kv_channels": 128, "layer_norm_epsilon": 1e-05,
      "model_type": "qwen", "n_embd": 4096, "n_head": 32, "n_layer": 32, "n_positions": 6144,
      "no_bias": true, "padded_vocab_size": 151936, "pos_emb": "rotary", "resid_pdrop": 0.1,
      "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 2048,
      "tie_word_embeddings": false, "use_dynamic_ntk": true, "use_logn_attn": true,
      "vocab_size": 151936})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->hidden_size, 4096);
  EXPECT_EQ(config->num_layers, 32);
  EXPECT_EQ(config->num_query_heads, 32);
  EXPECT_EQ(config->ffn_size, 11008);
  EXPECT_EQ(config->vocab_size, 151936);
  EXPECT_EQ(config->max_positions, 6144);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_EQ(config->ntk_train_length, 2048);
}

TEST(ModelConfigTest, Qwen1FillsInTheDefaultsOfItsClass) {
  auto config = Parse(SmallQwen1());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 128);
  EXPECT_EQ(config->rope_base, 10000);
  EXPECT_EQ(config->norm_epsilon, 1e-6f);
  EXPECT_EQ(config->ntk_train_length, 8192);
  EXPECT_EQ(config->logn_train_length, 8192);
}

TEST(ModelConfigTest, SaysOfWhichTypeTheFloatsAre) {
  const auto type = [](const std::string& changes) {
    const auto parsed = Parse(SmallQwen1(changes));
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.ok() ? parsed->float_type : DType::kF32;
  };
  EXPECT_EQ(type("{}"), DType::kBf16);
  EXPECT_EQ(type(R"({"fp16": true})"), DType::kF16);
  EXPECT_EQ(type(R"({"fp32": true})"), DType::kF32);
  for (const std::string field : {"torch_dtype", "dtype"}) {
    EXPECT_EQ(type("{\"" + field + R"(": "float32"})"), DType::kF32);
    EXPECT_EQ(type("{\"" + field + R"(": "float16"})"), DType::kF16);
    EXPECT_EQ(type("{\"" + field + R"(": "bfloat16", "fp16": true})"), DType::kBf16);
  }
}

TEST(ModelConfigTest, ReadsYarnUnderBothNamesAndInTheNewerPlace) {
  for (const char* scaling : {
           R"({"rope_scaling": {"type": "yarn", "factor": 4.0,
               "original_max_position_embeddings": 32768}})",
           R"({"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
               "original_max_position_embeddings": 32768}})",
           R"({"rope_theta": null, "rope_parameters": {"rope_type": "yarn", "factor": 4.0,
               "rope_theta": 1000000.0, "original_max_position_embeddings": 32768}})"}) {
    auto config = Parse(Small(scaling));
    ASSERT_TRUE(config.ok()) << config.status();
    ASSERT_TRUE(config->yarn.has_value());
    EXPECT_EQ(config->yarn->factor, 4.0);
    EXPECT_EQ(config->yarn->original_max_positions, 32768);
    EXPECT_EQ(config->max_positions, 131072);
    EXPECT_EQ(config->rope_base, 1e6);
  }
}

struct Refusal {
  const char* changes;
  absl::StatusCode code;
  std::vector<const char*> words;  // all in the message
};

void ExpectRefused(const std::string& text, const Refusal& refusal) {
  const absl::Status status = Parse(text).status();
  EXPECT_EQ(status.code(), refusal.code) << refusal.changes << ": " << status;
  EXPECT_THAT(status.message(), HasSubstr("config.json")) << refusal.changes;
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
  for (const char* word : refusal.words) EXPECT_THAT(status.message(), HasSubstr(word));
}

constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(ModelConfigTest, RefusesWhatItCannotRunByName) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {R"({"architectures": ["Qwen2MoeForCausalLM"]})", kUnimplemented, {"MoE", "dense"}},
           {R"({"architectures": ["Qwen3MoeForCausalLM"]})", kUnimplemented, {"MoE"}},
           {R"({"architectures": null, "model_type": "qwen3_moe"})", kUnimplemented, {"MoE"}},
           {R"({"architectures": ["Qwen2VLForConditionalGeneration"]})", kUnimplemented, {"VL"}},
           {R"({"architectures": ["Qwen2_5_VLForConditionalGeneration"]})", kUnimplemented, {"VL"}},
           {R"({"architectures": ["QWenLMHeadModel"], "visual": {"layers": 48}})",
            kUnimplemented,
            {"image"}},
           {R"({"architectures": ["Qwen2AudioForConditionalGeneration"]})",
            kUnimplemented,
            {"Audio"}},
           {R"({"architectures": ["LlamaForCausalLM"]})",
            kUnimplemented,
            {"LlamaForCausalLM", "Qwen2ForCausalLM"}},
           {R"({"architectures": ["Qwen2ForSequenceClassification"]})",
            kUnimplemented,
            {"Qwen2ForSequenceClassification"}},
           {R"({"quantization_config": {"quant_method": "fp8"}})", kUnimplemented, {"FP8", "bf16"}},
           {R"({"quantization_config": {"quant_method": "compressed-tensors"}})",
            kUnimplemented,
            {"compressed-tensors"}},
           {R"({"use_sliding_window": true})", kUnimplemented, {"use_sliding_window"}},
           {R"({"layer_types": ["full_attention", "sliding_attention"]})",
            kUnimplemented,
            {"layer_types"}},
           {R"({"dual_chunk_attention_config": {"chunk_size": 262144}})",
            kUnimplemented,
            {"dual_chunk_attention_config"}},
           {R"({"rope_scaling": {"type": "linear", "factor": 2}})", kUnimplemented, {"linear"}},
           {R"({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 16,
                "original_max_position_embeddings": 64}})",
            kUnimplemented,
            {"beta_fast", "32"}},
           {R"({"hidden_act": "gelu"})", kUnimplemented, {"gelu"}},
       }) {
    ExpectRefused(Small(refusal.changes), refusal);
  }
}

TEST(ModelConfigTest, RefusesWrongFieldsWithTheirValues) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {R"({"architectures": null, "model_type": null})", kInvalid, {"architectures"}},
           {R"({"architectures": "Qwen2ForCausalLM"})", kInvalid, {"architectures"}},
           {R"({"hidden_size": null})", kInvalid, {"hidden_size", "missing"}},
           {R"({"hidden_size": 0})", kInvalid, {"hidden_size", " 0,"}},
           {R"({"hidden_size": -64})", kInvalid, {"hidden_size", "-64"}},
           {R"({"hidden_size": 64.5})", kInvalid, {"hidden_size", "64.5"}},
           {R"({"hidden_size": "64"})", kInvalid, {"hidden_size", "\"64\""}},
           {R"({"hidden_size": 18446744073709551615})", kInvalid, {"18446744073709551615"}},
           {R"({"hidden_size": 1099511627776})", kInvalid, {"hidden_size", "1099511627776"}},
           {R"({"hidden_size": 66})", kInvalid, {"hidden_size", "66", "4 attention heads"}},
           {R"({"num_key_value_heads": 3})", kInvalid, {"num_key_value_heads", "3", "4"}},
           {R"({"num_attention_heads": 0})", kInvalid, {"num_attention_heads"}},
           {R"({"num_hidden_layers": 1000000})", kInvalid, {"num_hidden_layers"}},
           {R"({"vocab_size": 2000000})", kInvalid, {"vocab_size", "2000000"}},
           {R"({"head_dim": 15})", kInvalid, {"head_dim", "15"}},
           {R"({"rms_norm_eps": -1e-6})", kInvalid, {"rms_norm_eps"}},
           {R"({"rms_norm_eps": true})", kInvalid, {"rms_norm_eps"}},
           {R"({"rope_theta": 0})", kInvalid, {"rope_theta"}},
           {R"({"tie_word_embeddings": "yes"})", kInvalid, {"tie_word_embeddings"}},
           {R"({"rope_scaling": [4]})", kInvalid, {"rope_scaling"}},
           {R"({"rope_scaling": {"type": "yarn", "factor": 4}})",
            kInvalid,
            {"original_max_position_embeddings", "missing"}},
           {R"({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 64}})",
            kInvalid,
            {"factor", "missing"}},
       }) {
    ExpectRefused(Small(refusal.changes), refusal);
  }
}

// Whatever one field holds, the answer is a clear refusal or a configuration that the next stages
// can work with.
TEST(ModelConfigTest, SurvivesAnyValueOfAnyField) {
  const std::vector<Json> kValues = {nullptr,
                                     true,
                                     0,
                                     1,
                                     -1,
                                     3,
                                     0.5,
                                     1e308,
                                     int64_t{1} << 17,
                                     int64_t{1} << 40,
                                     std::numeric_limits<int64_t>::min(),
                                     std::numeric_limits<uint64_t>::max(),
                                     "",
                                     "x",
                                     Json::array(),
                                     {1, 2},
                                     Json::object(),
                                     {{"type", 3}}};
  int accepted = 0;
  for (const std::string& text :
       {Small(R"({"rope_scaling": {"type": "yarn", "factor": 2.0,
                  "original_max_position_embeddings": 64}, "quantization_config": null})"),
        SmallQwen1(R"({"seq_length": 64, "kv_channels": 128, "rotary_emb_base": 1e4})")}) {
    const Json base = *ParseJson(text, "x");
    for (const auto& [key, unused] : base.items()) {
      for (const Json& value : kValues) {
        Json json = base;
        json[key] = value;
        auto config = ParseModelConfig(json, "config.json");
        if (!config.ok()) {
          EXPECT_THAT(std::string(config.status().message()), HasSubstr("config.json: "));
          continue;
        }
        ++accepted;
        EXPECT_GT(config->hidden_size, 0);
        EXPECT_GT(config->head_dim, 0);
        EXPECT_EQ(config->head_dim % 2, 0);
        EXPECT_EQ(config->num_query_heads % config->num_kv_heads, 0);
        // No product of three sizes, in bytes, leaves 63 bits.
        int64_t bytes = 4;
        for (const int64_t size : {config->vocab_size, config->hidden_size, config->ffn_size}) {
          EXPECT_FALSE(__builtin_mul_overflow(bytes, size, &bytes)) << key << " " << value.dump();
        }
      }
    }
  }
  EXPECT_GT(accepted, 20);
}

TEST(ModelConfigTest, RefusesWrongQwen1Fields) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {R"({"kv_channels": 64})", kInvalid, {"kv_channels", "64", "256"}},
           {R"({"intermediate_size": 511})", kInvalid, {"intermediate_size", "511"}},
           {R"({"rotary_pct": 0.5})", kUnimplemented, {"rotary_pct", "0.5"}},
           {R"({"no_bias": false})", kUnimplemented, {"no_bias"}},
           {R"({"seq_length": 0})", kInvalid, {"seq_length"}},
       }) {
    ExpectRefused(SmallQwen1(refusal.changes), refusal);
  }
}

}  // namespace
}  // namespace qwenserve
