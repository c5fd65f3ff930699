// GPTQ and AWQ checkpoints of every style: each weight on each rank is exactly what the format says
// (quantized_writer), and damaged files are refused by name.
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/loader/weight_loader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/checkpoint_writer.h"
#include "tests/engine/loader/loaded_weights.h"
#include "tests/engine/loader/quantized_writer.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

// Heads of 32 (cuts at a quarter of a group), an FFN of 3.5 groups of 128.
constexpr char kGroupedQwen2[] = R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 192,
    "intermediate_size": 448, "num_attention_heads": 6, "num_hidden_layers": 1,
    "num_key_value_heads": 2, "vocab_size": 37, "max_position_embeddings": 64,
    "eos_token_id": 1, "tie_word_embeddings": false})";
constexpr char kGroupedQwen1[] = R"({"architectures": ["QWenLMHeadModel"], "hidden_size": 128,
    "kv_channels": 32, "intermediate_size": 768, "num_attention_heads": 4,
    "num_hidden_layers": 2, "vocab_size": 37, "eos_token_id": 1})";
// Heads of 24, cut within a block of 32; tied.
constexpr char kQwen3[] = R"({"architectures": ["Qwen3ForCausalLM"], "hidden_size": 128,
    "intermediate_size": 192, "num_attention_heads": 8, "num_hidden_layers": 1, "head_dim": 24,
    "num_key_value_heads": 4, "vocab_size": 37, "max_position_embeddings": 64,
    "eos_token_id": 1, "tie_word_embeddings": true})";

class QuantizedWeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = FreshDir(absl::StrCat("quantized_",
                                 ::testing::UnitTest::GetInstance()->current_test_info()->name()));
  }

  void Use(const char* config, const QuantizedStyle& style) {
    made_ = RandomQuantizedCheckpoint(*ParseJson(config, "x"), style, 7);
  }

  absl::StatusOr<ModelWeights> Load(int tp = 1, int rank = 0,
                                    WeightChoice choice = WeightChoice::kAuto, int threads = 1) {
    WriteFile(dir_ + "/config.json", made_.config.dump());
    WriteFile(dir_ + "/model.safetensors", SafetensorsBytes(made_.tensors));
    auto checkpoint = Checkpoint::Open(dir_);
    if (!checkpoint.ok()) return checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    CpuBackendOptions options;
    options.num_threads = threads;
    backend_ = *MakeCpuBackend(options);
    shard_ = *MakeShardPlan(checkpoint_->config(), tp, rank);
    return LoadWeights(*checkpoint_, shard_, choice, *backend_, nullptr);
  }

  void ExpectExact(const ModelWeights& weights) {
    ExpectMatrices(weights, checkpoint_->config(), shard_, *backend_,
                   [&](const std::string& name, int64_t row) { return made_.Row(name, row); });
  }

  void ExpectError(const std::vector<std::string>& words, int tp = 1, int rank = 0) {
    const absl::Status status = Load(tp, rank).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
    for (const std::string& word : words)
      EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }

  void SetWord(const std::string& tensor, size_t index, uint32_t value) {
    std::memcpy(made_.Tensor(tensor).data.data() + 4 * index, &value, 4);
  }
  void SetHalf(const std::string& tensor, size_t index, uint16_t value) {
    std::memcpy(made_.Tensor(tensor).data.data() + 2 * index, &value, 2);
  }

  std::string dir_;
  QuantizedCheckpoint made_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ShardPlan shard_;
};

std::vector<QuantizedStyle> Styles() {
  std::vector<QuantizedStyle> styles;
  for (const int64_t group_size : {256, 128, 64, 32, -1}) {
    for (const int bits : {4, 8}) {
      for (const bool act_order : {false, true}) {
        for (const bool v2 : {false, true}) {
          for (const bool symmetric : {false, true}) {
            if (v2 && symmetric) continue;
            styles.push_back({"gptq", bits, group_size, act_order, v2, symmetric, true});
          }
        }
      }
    }
    styles.push_back({"awq", 4, group_size, false, false, false, false});
  }
  return styles;
}

TEST_F(QuantizedWeightsTest, EveryWeightOfEveryStyleOnEveryRank) {
  for (const char* config : {kGroupedQwen2, kGroupedQwen1, kQwen3}) {
    for (const QuantizedStyle& style : Styles()) {
      Use(config, style);
      for (const int tp : {1, 2, 3, 4}) {
        for (int rank = 0; rank < tp; ++rank) {
          SCOPED_TRACE(absl::StrCat(made_.config.dump(), " tp ", tp, " rank ", rank));
          auto weights = Load(tp, rank, WeightChoice::kAuto, tp == 2 ? 2 : 1);
          ASSERT_TRUE(weights.ok()) << weights.status();
          ExpectExact(*weights);
          if (HasFatalFailure() || HasNonfatalFailure()) return;
          const LayerWeights& layer = weights->layers[0];
          const WeightFormat format = style.bits == 4 ? WeightFormat::kInt4 : WeightFormat::kInt8;
          for (const auto* matrix : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down}) {
            EXPECT_EQ(matrix->format, format);
            EXPECT_EQ(matrix->zeros.empty(), style.symmetric);
          }
          EXPECT_EQ(weights->Head().format, WeightFormat::kF16);
          EXPECT_TRUE(weights->notes.empty());
          const int64_t estimate = *LoadedBytes(*checkpoint_, shard_, WeightChoice::kAuto);
          const int64_t held = HeldBytes(*weights);
          EXPECT_LE(held, estimate);
          EXPECT_GE(held, style.symmetric ? estimate * 19 / 20 : estimate);
        }
      }
    }
  }
}

// Its rows are cut anywhere, and the last rank's are filled up.
TEST_F(QuantizedWeightsTest, AQuantisedHeadOnEveryRank) {
  QuantizedStyle style;
  style.head = true;
  style.symmetric = false;
  for (const bool act_order : {false, true}) {
    style.act_order = act_order;
    Json config = *ParseJson(kGroupedQwen2, "x");
    config["vocab_size"] = 40;
    Use(config.dump().c_str(), style);
    for (const int tp : {1, 2, 3}) {
      for (int rank = 0; rank < tp; ++rank) {
        auto weights = Load(tp, rank);
        ASSERT_TRUE(weights.ok()) << weights.status();
        ExpectExact(*weights);
        EXPECT_EQ(weights->Head().format, WeightFormat::kInt4);
        EXPECT_EQ(weights->embedding.format, WeightFormat::kF16);
        const int64_t estimate = *LoadedBytes(*checkpoint_, shard_, WeightChoice::kAuto);
        EXPECT_EQ(HeldBytes(*weights), estimate);
      }
    }
  }
}

TEST_F(QuantizedWeightsTest, ActOrderPermutesInputsAndKeepsGroupsWhole) {
  QuantizedStyle style;
  style.act_order = true;
  Use(kGroupedQwen1, style);
  auto weights = Load();
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->layers[0].down.group_size, 128);
  EXPECT_EQ(weights->layers[0].down.input_order.bytes(), 384 * sizeof(int32_t));
  style.act_order = false;
  Use(kGroupedQwen1, style);
  weights = Load();
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_TRUE(weights->layers[0].down.input_order.empty());
}

// Fused modules whose inputs are ordered differently have no common packed form.
TEST_F(QuantizedWeightsTest, FusedModulesOfDifferentOrdersAreHeldAsFloats) {
  QuantizedStyle style;
  style.act_order = true;
  style.group_size = 32;
  Use(kGroupedQwen2, style);
  RawTensor& g_idx = made_.Tensor("model.layers.0.mlp.up_proj.g_idx");
  const std::vector<float> whole = made_.values["model.layers.0.mlp.up_proj.weight"];
  // Reverses the inputs' order: word row by word row would need repacking, so the values follow.
  std::vector<int32_t> groups(192);
  std::memcpy(groups.data(), g_idx.data.data(), groups.size() * 4);
  std::vector<int32_t> reversed(groups.rbegin(), groups.rend());
  std::memcpy(g_idx.data.data(), reversed.data(), reversed.size() * 4);
  for (const int tp : {1, 2}) {
    auto weights = Load(tp, tp - 1);
    ASSERT_TRUE(weights.ok()) << weights.status();
    const LayerWeights& layer = weights->layers[0];
    EXPECT_EQ(layer.gate_up.format, WeightFormat::kF32);
    EXPECT_EQ(layer.qkv.format, WeightFormat::kInt4);
    ASSERT_EQ(weights->notes.size(), 1u);
    EXPECT_THAT(weights->notes[0], HasSubstr("layer 0"));
    // The gate, above, is untouched; of the other, each code now has another group's scale.
    const auto scales = made_.Tensor("model.layers.0.mlp.up_proj.scales");
    for (int64_t row = 0; row < shard_.ffn.size(); ++row) {
      EXPECT_EQ(LoadedRow(layer.gate_up, row, *backend_),
                made_.Row("model.layers.0.mlp.gate_proj.weight", shard_.ffn.begin + row));
      const std::vector<float> up = LoadedRow(layer.gate_up, shard_.ffn.size() + row, *backend_);
      for (int64_t i = 0; i < 192; ++i) {
        const auto scale = [&](int32_t group) {
          uint16_t bits;
          std::memcpy(&bits, scales.data.data() + 2 * (group * 448 + shard_.ffn.begin + row), 2);
          return F16ToFloat(bits);
        };
        const float before = whole[(shard_.ffn.begin + row) * 192 + i];
        const float code = before / scale(groups[i]);
        ASSERT_EQ(up[i], code * scale(reversed[i])) << row << " " << i;
      }
    }
  }
}

TEST_F(QuantizedWeightsTest, TheHeadIsRoundedWhenTheSameWidthIsAskedFor) {
  Use(kGroupedQwen2, {});
  auto weights = Load(1, 0, WeightChoice::kInt4);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->head.format, WeightFormat::kInt8);
  EXPECT_EQ(weights->embedding.format, WeightFormat::kInt8);
  EXPECT_EQ(LoadedRow(weights->layers[0].down, 3, *backend_),
            made_.Row("model.layers.0.mlp.down_proj.weight", 3));
  for (const WeightChoice choice : {WeightChoice::kInt8, WeightChoice::kBf16}) {
    const absl::Status status = Load(1, 0, choice).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("quantised already (GPTQ, 4 bits"));
  }
}

// Modules that a quantiser left in float stay it, beside quantised ones.
TEST_F(QuantizedWeightsTest, AFloatModuleAmongQuantisedOnes) {
  QuantizedStyle style;
  style.method = "awq";
  style.symmetric = false;
  Use(kGroupedQwen2, style);
  const std::string name = "model.layers.0.mlp.down_proj";
  std::erase_if(made_.tensors,
                [&](const RawTensor& tensor) { return tensor.name.rfind(name, 0) == 0; });
  std::vector<float>& values = made_.values[name + ".weight"];
  RawTensor tensor = {name + ".weight", "F16", {192, 448}, ""};
  for (float& value : values) {
    const uint16_t bits = FloatToF16(value);
    value = F16ToFloat(bits);
    tensor.data.append(reinterpret_cast<const char*>(&bits), 2);
  }
  made_.tensors.push_back(tensor);
  auto weights = Load(2, 1);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->layers[0].down.format, WeightFormat::kF16);
  EXPECT_EQ(weights->layers[0].gate_up.format, WeightFormat::kInt4);
  ExpectExact(*weights);
}

TEST_F(QuantizedWeightsTest, TensorsAreRequiredInTheirShapesAndTypes) {
  const std::string module = "model.layers.0.self_attn.k_proj";
  for (const char* suffix : {".qzeros", ".scales"}) {
    Use(kGroupedQwen2, {});
    std::erase_if(made_.tensors,
                  [&](const RawTensor& tensor) { return tensor.name == module + suffix; });
    ExpectError({dir_, module + suffix, "[2, ", "missing"});
  }
  Use(kGroupedQwen2, {});
  made_.Tensor(module + ".scales").shape = {1, 128};  // one group of twice the outputs
  ExpectError({"model.safetensors", module + ".scales", "[1, 128]", "[2, 64]", "groups of 128"});
  Use(kGroupedQwen2, {});
  made_.Tensor(module + ".qweight").shape = {64, 24};
  ExpectError({module + ".qweight", "[64, 24]", "[24, 64]"});
  Use(kGroupedQwen2, {});
  made_.Tensor(module + ".scales").dtype = "BF16";
  ExpectError({module + ".scales", "bf16", "fp16"});
  Use(kGroupedQwen2, {});
  made_.Tensor(module + ".qweight").dtype = "F32";
  ExpectError({module + ".qweight", "F32", "I32"});
  Use(kGroupedQwen2, {});
  made_.config["quantization_config"]["group_size"] = 64;  // not what the file has
  ExpectError({"qzeros", "groups of 64", "[3, "});
  Use(kGroupedQwen2, {});
  made_.config["quantization_config"] = nullptr;
  ExpectError({"GPTQ or AWQ", "config.json"});
  QuantizedStyle style;
  style.act_order = true;
  Use(kGroupedQwen2, style);
  std::erase_if(made_.tensors,
                [&](const RawTensor& tensor) { return tensor.name == module + ".g_idx"; });
  ExpectError({module + ".g_idx", "[192]", "missing"});
}

TEST_F(QuantizedWeightsTest, DamagedOrdersOfInputsAreRefused) {
  const std::string g_idx = "model.layers.0.mlp.down_proj.g_idx";
  for (const uint32_t value : {4u, 0xffffffffu, 0x7fffffffu}) {
    Use(kGroupedQwen2, {});
    SetWord(g_idx, 5, value);
    ExpectError({"model.safetensors", g_idx, "input 5",
                 absl::StrCat("group ", static_cast<int32_t>(value), " of 4")});
  }
  Use(kGroupedQwen2, {});
  SetWord(g_idx, 5, 1);
  ExpectError({g_idx, "input 5", "desc_act is false", "ask for 0"});
  QuantizedStyle style;
  style.act_order = true;
  Use(kGroupedQwen2, style);
  for (size_t i = 0; i < 448; ++i) SetWord(g_idx, i, 0);
  ExpectError({g_idx, "group 0 has 448 inputs, not 128"});
}

TEST_F(QuantizedWeightsTest, DamagedScalesAndZerosAreRefused) {
  for (const uint16_t bits : {0x7c00, 0xfc00, 0x7e01}) {
    Use(kGroupedQwen2, {});
    SetHalf("model.layers.0.mlp.gate_proj.scales", 448 + 17, bits);
    ExpectError({"model.safetensors", "mlp.gate_proj.scales", "group 1", "output 17",
                 bits == 0x7e01 ? "nan" : "inf"});
  }
  Use(kGroupedQwen2, {});
  SetWord("model.layers.0.mlp.gate_proj.qzeros", 56 + 2, 0x777f7777);
  ExpectError({"mlp.gate_proj.qzeros", "zero point 16", "group 1", "output 20"});
  made_.config["quantization_config"]["checkpoint_format"] = "gptq_v2";
  EXPECT_TRUE(Load().ok());  // 15 and 7, as they are
}

TEST_F(QuantizedWeightsTest, ABiasWithoutAPlaceMustBeZero) {
  Use(kGroupedQwen1, {});
  SetHalf("transformer.h.1.mlp.c_proj.bias", 9, 0x3c00);
  ExpectError({"transformer.h.1.mlp.c_proj.bias", "is 1 at output 9"});
  Use(kGroupedQwen1, {});
  made_.Tensor("transformer.h.1.mlp.c_proj.bias").shape = {2, 64};
  ExpectError({"transformer.h.1.mlp.c_proj.bias", "[2, 64]", "[128]"});
}

TEST_F(QuantizedWeightsTest, AWidthThatWordsCannotHoldIsRefused) {
  Use(kGroupedQwen2, {});
  made_.config["intermediate_size"] = 444;
  ExpectError({"mlp.gate_proj", "444", "words hold 8"});
}

// 13696 inputs are 107 groups: 54 for one rank and 53 for the other; 29568 are 231.
TEST(QuantizedShardTest, RanksHoldWholeGroups) {
  ModelConfig config;
  config.num_query_heads = config.num_kv_heads = 40;
  config.head_dim = 128;
  config.vocab_size = 152064;
  config.hidden_size = 5120;
  for (const auto& [width, groups] : {std::pair<int64_t, std::vector<int64_t>>{13696, {54, 53}},
                                      {29568, {116, 115}},
                                      {29696, {116, 116}},
                                      {11008, {22, 22, 21, 21}},
                                      {5504, {22, 21}},
                                      {4864, {10, 10, 9, 9}}}) {
    config.ffn_size = width;
    const int tp = static_cast<int>(groups.size());
    int64_t begin = 0;
    for (int rank = 0; rank < tp; ++rank) {
      const Range ffn = MakeShardPlan(config, tp, rank)->ffn;
      EXPECT_EQ(ffn.begin, begin);
      EXPECT_EQ(ffn.size(), groups[rank] * 128) << width;
      begin = ffn.end;
    }
    EXPECT_EQ(begin, width);
  }
}

}  // namespace
}  // namespace qwenserve
