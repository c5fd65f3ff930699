// Spoiled checkpoint files: a clear refusal, or a result that keeps every promise of its header.
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/loader/checkpoint.h"
#include "engine/loader/safetensors.h"
#include "engine/loader/weight_loader.h"
#include "engine/model/model_config.h"
#include "engine/parallel/shard_plan.h"
#include "gtest/gtest.h"
#include "tests/engine/fuzz/mutator.h"
#include "tests/engine/loader/checkpoint_writer.h"
#include "tests/engine/loader/quantized_writer.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

constexpr char kSafetensorsHeader[] =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
    R"("b":{"dtype":"F32","shape":[],"data_offsets":[12,16]},)"
    R"("c":{"dtype":"F16","shape":[0,7],"data_offsets":[16,16]},)"
    R"("d":{"dtype":"I64","shape":[1,2],"data_offsets":[16,32]}}      )";

int64_t ElementBytes(const std::string& dtype) {
  if (dtype == "I64" || dtype == "U64" || dtype == "F64") return 8;
  if (dtype == "I32" || dtype == "U32" || dtype == "F32") return 4;
  return dtype == "BOOL" || dtype == "U8" || dtype == "I8" || dtype[1] == '8' ? 1 : 2;
}

void CheckEntries(const std::vector<SafetensorsEntry>& entries, size_t file_size) {
  int64_t end = -1;
  for (const SafetensorsEntry& entry : entries) {
    EXPECT_GE(entry.offset, 8);
    int64_t bytes = ElementBytes(entry.dtype);
    for (const int64_t size : entry.shape) bytes *= size;
    EXPECT_EQ(entry.bytes, bytes) << entry.dtype << " " << ShapeString(entry.shape);
    EXPECT_LE(entry.offset + entry.bytes, static_cast<int64_t>(file_size));
    if (end >= 0) {
      EXPECT_EQ(entry.offset, end) << "a hole or an overlap";
    }
    end = entry.offset + entry.bytes;
  }
  if (end >= 0) {
    EXPECT_EQ(end, static_cast<int64_t>(file_size));
  }
}

TEST(CheckpointFuzz, SafetensorsHeaders) {
  const std::string data(32, '\x3c');
  int accepted = 0;
  ForEachSeed(20000, [&](uint32_t seed) {
    Mutator mutator(seed);
    // Half of the headers have the right length in front, so that what is inside counts.
    const std::string file =
        mutator.Pick(2) == 0
            ? SafetensorsBytes(mutator.Mutate(kSafetensorsHeader, JsonWords()), data)
            : mutator.Mutate(SafetensorsBytes(kSafetensorsHeader, data), JsonWords());
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(file.data()),
                                          file.size());
    const auto entries = ParseSafetensors(bytes, "f.safetensors");
    if (!entries.ok()) return ExpectCleanError(entries.status());
    ++accepted;
    CheckEntries(*entries, file.size());
  });
  EXPECT_GT(accepted, 0);
}

const std::vector<std::string>& ConfigFiles() {
  static const auto& kFiles = *new std::vector<std::string>{
      R"({"architectures":["QWenLMHeadModel"],"hidden_size":2048,"num_hidden_layers":24,
          "num_attention_heads":16,"kv_channels":128,"intermediate_size":11008,"vocab_size":151936,
          "layer_norm_epsilon":1e-6,"rotary_emb_base":10000,"rotary_pct":1.0,"seq_length":8192,
          "max_position_embeddings":32768,"use_dynamic_ntk":true,"use_logn_attn":true,
          "no_bias":true,"scale_attn_weights":true,"tie_word_embeddings":false})",
      R"({"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","hidden_size":896,
          "num_hidden_layers":24,"num_attention_heads":14,"num_key_value_heads":2,
          "intermediate_size":4864,"vocab_size":151936,"max_position_embeddings":32768,
          "rms_norm_eps":1e-6,"rope_theta":1000000.0,"hidden_act":"silu",
          "use_sliding_window":false,"tie_word_embeddings":true,
          "rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":32768}})",
      R"({"architectures":["Qwen3ForCausalLM"],"hidden_size":1024,"num_hidden_layers":28,
          "num_attention_heads":16,"num_key_value_heads":8,"head_dim":128,"intermediate_size":3072,
          "vocab_size":151936,"max_position_embeddings":40960,"rms_norm_eps":1e-6,
          "rope_theta":1000000,"attention_bias":false,"quantization_config":null,
          "layer_types":["full_attention"]})"};
  return kFiles;
}

void CheckConfig(const ModelConfig& config) {
  for (const int64_t size :
       {config.hidden_size, config.num_layers, config.num_query_heads, config.num_kv_heads,
        config.head_dim, config.ffn_size, config.vocab_size, config.max_positions}) {
    EXPECT_GT(size, 0);
    EXPECT_LE(size, 1 << 22);
  }
  EXPECT_EQ(config.num_query_heads % config.num_kv_heads, 0);
  EXPECT_EQ(config.head_dim % 2, 0);
  EXPECT_GT(config.norm_epsilon, 0);
  // Cutting any accepted model over ranks is refused or leaves every rank something.
  for (const int tp : {1, 3, 64}) {
    const auto shard = MakeShardPlan(config, tp, tp - 1);
    if (!shard.ok()) {
      ExpectCleanError(shard.status());
      continue;
    }
    EXPECT_GT(shard->query_heads.size(), 0);
    EXPECT_GT(shard->ffn.size(), 0);
    EXPECT_GT(shard->vocab.size(), 0);
    EXPECT_EQ(shard->ffn.end, config.ffn_size);
    EXPECT_EQ(shard->vocab.end, config.vocab_size);
  }
}

TEST(CheckpointFuzz, Configurations) {
  int accepted = 0;
  ForEachSeed(20000, [&](uint32_t seed) {
    Mutator mutator(seed);
    const std::string text =
        mutator.Mutate(ConfigFiles()[mutator.Pick(ConfigFiles().size())], JsonWords());
    const auto json = ParseJson(text, "config.json");
    if (!json.ok()) return ExpectCleanError(json.status());
    const auto config = ParseModelConfig(*json, "config.json");
    if (!config.ok()) return ExpectCleanError(config.status());
    ++accepted;
    CheckConfig(*config);
  });
  EXPECT_GT(accepted, 0);
}

// The other JSON files of a whole checkpoint, in its folder.
TEST(CheckpointFuzz, IndexAndGenerationConfig) {
  const std::string dir = WriteTinyCheckpoint("fuzz", TinyModel());
  std::filesystem::rename(dir + "/model.safetensors", dir + "/a.safetensors");
  Json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", Json::object()}};
  for (const RawTensor& tensor : ModelTensors(*ReadJsonFile(dir + "/config.json"))) {
    index["weight_map"][tensor.name] = "a.safetensors";
  }
  const std::string good_index = index.dump();
  const std::string good_defaults =
      R"({"temperature":0.7,"top_k":20,"top_p":0.8,"repetition_penalty":1.05,"min_p":0,)"
      R"("eos_token_id":[1,2],"do_sample":true,"chat_format":"chatml"})";
  int accepted = 0;
  ForEachSeed(1500, [&](uint32_t seed) {
    Mutator mutator(seed);
    const bool spoil_index = mutator.Pick(2) == 0;
    WriteFile(dir + "/model.safetensors.index.json",
              spoil_index ? mutator.Mutate(good_index, JsonWords()) : good_index);
    WriteFile(dir + "/generation_config.json",
              spoil_index ? good_defaults : mutator.Mutate(good_defaults, JsonWords()));
    const auto checkpoint = Checkpoint::Open(dir);
    if (!checkpoint.ok()) return ExpectCleanError(checkpoint.status());
    ++accepted;
    for (const TensorRef& tensor : (*checkpoint)->tensors()) {
      EXPECT_EQ(tensor.file, dir + "/a.safetensors");
    }
    EXPECT_FALSE((*checkpoint)->generation_defaults().eos_ids.empty());
  });
  EXPECT_GT(accepted, 0);
}

// Whole quantised checkpoints: header, description and the packed numbers themselves. What is
// accepted must load completely or say what is wrong.
TEST(CheckpointFuzz, QuantisedCheckpoints) {
  const char* kModel = R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 64,
      "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 1,
      "num_key_value_heads": 1, "vocab_size": 8, "max_position_embeddings": 64,
      "eos_token_id": 1, "tie_word_embeddings": true})";
  const std::vector<QuantizedStyle> styles = {{"gptq", 4, 32, true, false, false, true},
                                              {"gptq", 8, 64, false, false, true, true},
                                              {"awq", 4, 32, false, false, false, false}};
  std::vector<QuantizedCheckpoint> good;
  for (const QuantizedStyle& style : styles) {
    good.push_back(RandomQuantizedCheckpoint(*ParseJson(kModel, "x"), style, 3));
  }
  const std::string dir = FreshDir("fuzz_quantised");
  const auto backend = *MakeCpuBackend({});
  int accepted = 0, refused = 0;
  ForEachSeed(3000, [&](uint32_t seed) {
    Mutator mutator(seed);
    QuantizedCheckpoint made = good[mutator.Pick(good.size())];
    std::string config = made.config.dump();
    std::string file;
    const size_t where = mutator.Pick(4);
    if (where == 0) {
      config = mutator.Mutate(config, JsonWords());
      file = SafetensorsBytes(made.tensors);
    } else if (where == 1) {
      file = mutator.Mutate(SafetensorsBytes(made.tensors), JsonWords());
    } else {
      // One tensor's numbers, the size kept; small ones, groups and scales, as often as large ones.
      std::string& data = made.tensors[mutator.Pick(made.tensors.size())].data;
      const size_t size = data.size();
      data = mutator.Mutate(data, {std::string("\xff\x7f"), std::string("\x00\xfc", 2)});
      data.resize(size, '\xff');
      file = SafetensorsBytes(made.tensors);
    }
    WriteFile(dir + "/config.json", config);
    WriteFile(dir + "/model.safetensors", file);
    const auto checkpoint = Checkpoint::Open(dir);
    if (!checkpoint.ok()) return ExpectCleanError(checkpoint.status());
    for (const int tp : {1, 2}) {
      const auto shard = MakeShardPlan((*checkpoint)->config(), tp, tp - 1);
      if (!shard.ok()) return ExpectCleanError(shard.status());
      const auto bytes = LoadedBytes(**checkpoint, *shard, WeightChoice::kAuto);
      const auto weights =
          LoadWeights(**checkpoint, *shard, WeightChoice::kAuto, *backend, nullptr);
      if (!weights.ok()) {
        ++refused;
        return ExpectCleanError(weights.status());
      }
      EXPECT_TRUE(bytes.ok()) << bytes.status();
      ++accepted;
    }
  });
  EXPECT_GT(accepted, 0);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace qwenserve
