#include "tests/engine/tiny_checkpoint.h"

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/dtype.h"
#include "tests/engine/loader/checkpoint_writer.h"

namespace qwenserve {
namespace {

// Normal noise as large as keeps the activations' size over a layer; norms near 1. The embedding is
// larger, so that logits differ by more than rounding.
void RandomData(DType dtype, std::mt19937& random, RawTensor* tensor_to_fill) {
  RawTensor& tensor = *tensor_to_fill;
  const bool is_norm =
      absl::StrContains(tensor.name, "norm") || absl::StrContains(tensor.name, "ln_");
  const bool is_bias = absl::EndsWith(tensor.name, "bias");
  const double fan_in = static_cast<double>(tensor.shape.back());
  const bool is_embedding =
      absl::StrContains(tensor.name, "embed") || absl::StrContains(tensor.name, "wte");
  const double scale = is_norm || is_bias ? 0.1 : is_embedding ? 0.5 : 1.0 / std::sqrt(fan_in);
  std::normal_distribution<double> noise(is_norm ? 1.0 : 0.0, scale);
  const size_t count = tensor.data.size() / 2;
  tensor.data.clear();
  for (size_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(noise(random));
    const uint32_t bits = dtype == DType::kF32   ? std::bit_cast<uint32_t>(value)
                          : dtype == DType::kF16 ? FloatToF16(value)
                                                 : FloatToBf16(value);
    for (size_t byte = 0; byte < DTypeBytes(dtype); ++byte) {
      tensor.data += static_cast<char>(bits >> (8 * byte) & 0xff);
    }
  }
  tensor.dtype = dtype == DType::kF32 ? "F32" : dtype == DType::kF16 ? "F16" : "BF16";
}

Json TinyConfig(const TinyModel& model) {
  Json config;
  config["architectures"] = {model.architecture};
  config["hidden_size"] = model.hidden_size;
  config["num_hidden_layers"] = model.num_layers;
  config["num_attention_heads"] = model.num_query_heads;
  config["num_key_value_heads"] = model.num_kv_heads;
  config["vocab_size"] = model.vocab_size;
  config["max_position_embeddings"] = model.max_positions;
  config["eos_token_id"] = model.eos_id;
  if (model.architecture == "QWenLMHeadModel") {
    config["kv_channels"] = model.hidden_size / model.num_query_heads;
    config["intermediate_size"] = 2 * model.ffn_size;
    config["seq_length"] = model.max_positions / 4;
  } else {
    config["intermediate_size"] = model.ffn_size;
    config["head_dim"] = model.hidden_size / model.num_query_heads;
  }
  return config;
}

std::string Write(const std::string& name, const Json& config,
                  const std::vector<RawTensor>& tensors) {
  const std::string dir = FreshDir(name);
  WriteFile(dir + "/config.json", config.dump());
  WriteFile(dir + "/model.safetensors", SafetensorsBytes(tensors));
  return dir;
}

}  // namespace

std::string WriteTinyCheckpoint(const std::string& name, const TinyModel& model) {
  const Json config = TinyConfig(model);
  std::vector<RawTensor> tensors = ModelTensors(config);
  std::mt19937 random(model.seed);
  for (RawTensor& tensor : tensors) {
    RandomData(model.dtype, random, &tensor);
    if (model.nan_id < 0 || !absl::StrContains(tensor.name, "embed")) continue;
    const size_t row = static_cast<size_t>(tensor.shape.back()) * DTypeBytes(model.dtype);
    tensor.data.replace(model.nan_id * row, row, std::string(row, '\xff'));
  }
  return Write(name, config, tensors);
}

std::string WriteTinyQuantized(const std::string& name, const TinyModel& model,
                               const QuantizedStyle& style) {
  const QuantizedCheckpoint made = RandomQuantizedCheckpoint(TinyConfig(model), style, model.seed);
  return Write(name, made.config, made.tensors);
}

}  // namespace qwenserve
