#ifndef QWENSERVE_ENGINE_MODEL_MODEL_CONFIG_H_
#define QWENSERVE_ENGINE_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/json_reader.h"
#include "engine/model/quantization_config.h"
#include "kernels/dtype.h"

namespace qwenserve {

// Which naming and weight layout a checkpoint uses. The mathematics is described by the fields of
// ModelConfig alone.
enum class CheckpointStyle { kQwen1, kQwen2, kQwen3 };

// YaRN: static scaling of the rotary frequencies.
struct YarnScaling {
  double factor = 1.0;
  int64_t original_max_positions = 0;
};

// A validated config.json. Every size is positive and bounded so that the bytes of any tensor (the
// product of any three sizes and 4) fit in 63 bits.
struct ModelConfig {
  CheckpointStyle style = CheckpointStyle::kQwen2;
  std::string architecture;  // as config.json names it
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_query_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn_size = 0;       // width after the gate; Qwen1 stores twice that
  int64_t vocab_size = 0;     // rows of the embedding, padding included
  int64_t max_positions = 0;  // what the checkpoint claims; --max-model-len may lower it
  float norm_epsilon = 1e-6f;
  double rope_base = 10000.0;
  bool qkv_bias = false;
  bool qk_norm = false;
  // What config.json says of the floats of the checkpoint; its tensors are right where they differ.
  DType float_type = DType::kBf16;
  bool tied_embeddings = false;  // decided by the file when lm_head.weight is there or missing
  // Qwen1: NTK changes the rope base by the prompt's length, logn scales queries past the training
  // length. 0 = off.
  int64_t ntk_train_length = 0;
  int64_t logn_train_length = 0;
  std::optional<YarnScaling> yarn;
  // Of the matrices that the checkpoint holds quantised; empty for a float checkpoint.
  std::optional<QuantizationConfig> quantization;
};

// Errors name the field, its value and what is supported instead (UNIMPLEMENTED for FP8, MoE, VL
// and other architectures; INVALID_ARGUMENT for wrong types, missing or impossible numbers).
absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json, const std::string& source);

// What generation_config.json says, for requests that leave a field out. Unset = not in the file.
struct GenerationDefaults {
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::vector<int32_t> eos_ids;  // never empty; a chat checkpoint of Qwen1 ends at <|im_end|> too
};

// `dir`/generation_config.json, and for what it does not say about the end of an answer
// config.json's eos_token_id, else the family's ids. do_sample false reads as temperature 0.
// INVALID_ARGUMENT naming the field for a wrong type or range; the file itself may be missing.
absl::StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& dir,
                                                          const ModelConfig& config);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_MODEL_CONFIG_H_
