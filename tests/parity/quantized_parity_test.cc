// The whole model on GPTQ and AWQ checkpoints against a float model that holds exactly the weights
// which those files stand for.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/checkpoint_writer.h"
#include "tests/engine/loader/quantized_writer.h"
#include "tests/kernels/reference_backend.h"
#include "tests/parity/tiny_replica.h"

namespace qwenserve {
namespace {

constexpr int kLayers = 2;
constexpr char kQwen2[] = R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 192,
    "intermediate_size": 448, "num_attention_heads": 6, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "vocab_size": 101, "max_position_embeddings": 64,
    "eos_token_id": 1, "tie_word_embeddings": false})";
constexpr char kQwen1[] = R"({"architectures": ["QWenLMHeadModel"], "hidden_size": 128,
    "kv_channels": 32, "intermediate_size": 768, "num_attention_heads": 4,
    "num_hidden_layers": 2, "vocab_size": 101, "eos_token_id": 1})";

// Activations are rounded to 8 bits in blocks of 32: an error of amax / 127 / sqrt(12) each, 0.55 %
// of the rms of Gaussian inputs, and so of a product's outputs. Each of the four matrices of a
// layer adds its own, independently; three times that for what the softmax and later layers make of
// it.
const double kAllowed = 3 * 0.0055 * std::sqrt(4.0 * kLayers);

std::string WriteModel(const std::string& name, const Json& config,
                       const std::vector<RawTensor>& tensors) {
  const std::string dir = FreshDir(name);
  WriteFile(dir + "/config.json", config.dump());
  WriteFile(dir + "/model.safetensors", SafetensorsBytes(tensors));
  return dir;
}

// The same weights as floats.
std::string WriteTwin(const char* config, const QuantizedCheckpoint& quantized) {
  std::vector<RawTensor> tensors = ModelTensors(*ParseJson(config, "x"));
  for (RawTensor& tensor : tensors) {
    const std::vector<float>& values = quantized.values.at(tensor.name);
    tensor.dtype = "F32";
    tensor.data.assign(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  }
  return WriteModel("parity_twin", *ParseJson(config, "x"), tensors);
}

std::vector<ForcedSequence> Sequences() {
  std::mt19937 random(5);
  std::vector<ForcedSequence> sequences(2);
  for (ForcedSequence& sequence : sequences) {
    for (int i = 0; i < 24; ++i) sequence.ids.push_back(static_cast<int32_t>(random() % 101));
    sequence.prompt_tokens = 24;
  }
  return sequences;
}

std::unique_ptr<Backend> Cpu() { return *MakeCpuBackend({}); }
std::unique_ptr<Backend> Reference() { return std::make_unique<ReferenceBackend>(); }

Logits LogitsOfModel(const std::string& dir, int tp, std::unique_ptr<Backend> (*backend)()) {
  RunOptions options;
  options.make_backend = backend;
  options.tp = tp;
  const std::vector<ForcedSequence> sequences = Sequences();
  return RunSteps(dir, sequences, OneShot(sequences), options);
}

// Root mean square of the difference, relative to that of the logits.
double RelativeError(const Logits& logits, const Logits& exact) {
  double difference = 0, size = 0;
  for (size_t s = 0; s < exact.size(); ++s) {
    for (size_t p = 0; p < exact[s].size(); ++p) {
      for (size_t i = 0; i < exact[s][p].size(); ++i) {
        difference += std::pow(double{logits[s][p][i]} - double{exact[s][p][i]}, 2);
        size += std::pow(double{exact[s][p][i]}, 2);
      }
    }
  }
  return std::sqrt(difference / size);
}

TEST(QuantizedParityTest, LogitsAreThoseOfTheDequantisedModel) {
  const std::vector<QuantizedStyle> styles = {
      {"gptq", 4, 128, false, false, true, true}, {"gptq", 8, 128, false, false, true, true},
      {"gptq", 4, 64, true, false, false, true},  {"gptq", 8, 32, true, true, false, false},
      {"gptq", 4, -1, false, true, false, false}, {"awq", 4, 128, false, false, false, false},
      {"awq", 4, 64, false, false, false, false}};
  for (const char* config : {kQwen2, kQwen1}) {
    for (const QuantizedStyle& style : styles) {
      const QuantizedCheckpoint made =
          RandomQuantizedCheckpoint(*ParseJson(config, "x"), style, 11);
      const Logits exact = LogitsOfModel(WriteTwin(config, made), 1, Cpu);
      const std::string dir = WriteModel("parity_quantized", made.config, made.tensors);
      const std::string what = made.config["quantization_config"].dump();
      for (const int tp : {1, 2, 4}) {
        const double error = RelativeError(LogitsOfModel(dir, tp, Cpu), exact);
        EXPECT_LT(error, kAllowed) << what << " tp " << tp;
        std::printf("%s tp %d: %.4f, allowed %.4f\n", what.c_str(), tp, error, kAllowed);
      }
      EXPECT_LT(RelativeError(LogitsOfModel(dir, 3, Reference), exact), kAllowed) << what;
    }
  }
}

// What the tolerance would catch: zero points of v1 taken for those of v2 are one off.
TEST(QuantizedParityTest, AZeroPointThatIsOneOffIsSeen) {
  const QuantizedCheckpoint made = RandomQuantizedCheckpoint(*ParseJson(kQwen2, "x"), {}, 11);
  const Logits exact = LogitsOfModel(WriteTwin(kQwen2, made), 1, Cpu);
  Json config = made.config;
  config["quantization_config"]["checkpoint_format"] = "gptq_v2";
  const std::string dir = WriteModel("parity_quantized", config, made.tensors);
  EXPECT_GT(RelativeError(LogitsOfModel(dir, 1, Cpu), exact), 2 * kAllowed);
}

}  // namespace
}  // namespace qwenserve
