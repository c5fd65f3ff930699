#include "engine/model/model_config.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/config_reader.h"

namespace qwenserve {
namespace {

// Far above every released model; low enough that three of them times 4 bytes fit in 63 bits.
constexpr int64_t kMaxWidth = 1 << 18;
constexpr int64_t kMaxVocab = 1 << 20;
constexpr int64_t kMaxHeads = 1 << 10;
constexpr int64_t kMaxPositions = 1 << 22;

constexpr absl::string_view kSupported =
    "supported are QWenLMHeadModel, Qwen2ForCausalLM and Qwen3ForCausalLM (dense text models)";

// Names of whole families that people try; everything else gets the general message.
absl::Status CheckFamily(const ConfigReader& reader, const std::string& architecture,
                         const std::string& model_type) {
  const std::string names = absl::AsciiStrToLower(absl::StrCat(architecture, " ", model_type));
  const auto has = [&](absl::string_view part) { return absl::StrContains(names, part); };
  const Json shown = architecture.empty() ? model_type : architecture;
  for (const char* field : {"visual", "vision_config", "audio", "audio_config"}) {
    if (const Json* found = reader.Find(field); found != nullptr && found->is_object()) {
      return reader.Unsupported("architectures", shown,
                                absl::StrCat("image and audio models (\"", field,
                                             "\") are not supported; use the text model"));
    }
  }
  if (has("moe") || has("qwen3next") || reader.Find("num_experts") != nullptr) {
    return reader.Unsupported("architectures", shown,
                              "mixture-of-experts (MoE) models are not supported; use a dense one");
  }
  if (has("vl") || has("vision") || has("audio") || has("omni")) {
    return reader.Unsupported("architectures", shown,
                              "image and audio (VL, Audio, Omni) models are not supported; use the "
                              "text model");
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckpointStyle> ReadStyle(const ConfigReader& reader, std::string& architecture) {
  QS_ASSIGN_OR_RETURN(const std::string model_type, reader.String("model_type", ""));
  if (const Json* list = reader.Find("architectures"); list != nullptr) {
    if (!list->is_array() || list->size() != 1 || !list->front().is_string()) {
      return reader.Invalid("architectures", "is not an array with one name");
    }
    architecture = list->front().get<std::string>();
  }
  QS_RETURN_IF_ERROR(CheckFamily(reader, architecture, model_type));
  const struct {
    absl::string_view architecture;
    absl::string_view model_type;
    CheckpointStyle style;
  } kStyles[] = {{"QWenLMHeadModel", "qwen", CheckpointStyle::kQwen1},
                 {"Qwen2ForCausalLM", "qwen2", CheckpointStyle::kQwen2},
                 {"Qwen3ForCausalLM", "qwen3", CheckpointStyle::kQwen3}};
  for (const auto& known : kStyles) {
    if (architecture.empty() ? model_type == known.model_type
                             : architecture == known.architecture) {
      architecture = std::string(known.architecture);
      return known.style;
    }
  }
  if (architecture.empty() && model_type.empty()) {
    return reader.Invalid("architectures", absl::StrCat("is missing; ", kSupported));
  }
  return reader.Unsupported(architecture.empty() ? "model_type" : "architectures",
                            architecture.empty() ? model_type : architecture, kSupported);
}

absl::Status ReadQuantization(const ConfigReader& reader, ModelConfig& config) {
  const Json* json = reader.Find("quantization_config");
  if (json == nullptr) return absl::OkStatus();
  QS_ASSIGN_OR_RETURN(
      config.quantization,
      ParseQuantization({json, absl::StrCat(reader.source(), ": quantization_config")}, {}));
  return absl::OkStatus();
}

// What all styles share once their sizes are read.
absl::Status CheckSizes(const ConfigReader& reader, const ModelConfig& config) {
  if (config.num_query_heads % config.num_kv_heads != 0) {
    return reader.Invalid("num_key_value_heads",
                          absl::StrCat("is ", config.num_kv_heads, ", which does not divide ",
                                       config.num_query_heads, " attention heads"));
  }
  if (config.head_dim % 2 != 0) {
    return reader.Invalid(
        "head_dim", absl::StrCat("is ", config.head_dim, ", but rotation needs an even number"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> HeadDimFromHidden(const ConfigReader& reader, const ModelConfig& config) {
  if (config.hidden_size % config.num_query_heads != 0) {
    return reader.Invalid("hidden_size",
                          absl::StrCat("is ", config.hidden_size, ", not a multiple of ",
                                       config.num_query_heads, " attention heads"));
  }
  return config.hidden_size / config.num_query_heads;
}

// The names of the first 7B release come second. Defaults are those of the released configuration
// class; sizes have none here, because a guessed size would only fail later and less clearly.
absl::Status ReadQwen1(const ConfigReader& reader, ModelConfig& config) {
  QS_ASSIGN_OR_RETURN(config.hidden_size, reader.Integer({"hidden_size", "n_embd"}, 1, kMaxWidth));
  QS_ASSIGN_OR_RETURN(config.num_layers,
                      reader.Integer({"num_hidden_layers", "n_layer"}, 1, kMaxHeads));
  QS_ASSIGN_OR_RETURN(config.num_query_heads,
                      reader.Integer({"num_attention_heads", "n_head"}, 1, kMaxHeads));
  config.num_kv_heads = config.num_query_heads;
  QS_ASSIGN_OR_RETURN(config.head_dim, reader.Integer({"kv_channels"}, 1, kMaxHeads, 128));
  if (config.head_dim * config.num_query_heads != config.hidden_size) {
    return reader.Invalid(
        "kv_channels", absl::StrCat("is ", config.head_dim, ", but ", config.num_query_heads,
                                    " heads of it do not make hidden_size ", config.hidden_size));
  }
  QS_ASSIGN_OR_RETURN(const int64_t stored_ffn,
                      reader.Integer({"intermediate_size", "ffn_hidden_size"}, 2, kMaxWidth));
  if (stored_ffn % 2 != 0) {
    return reader.Invalid("intermediate_size",
                          absl::StrCat("is ", stored_ffn, ", but it counts gate and up together"));
  }
  config.ffn_size = stored_ffn / 2;
  QS_ASSIGN_OR_RETURN(config.vocab_size,
                      reader.Integer({"padded_vocab_size", "vocab_size"}, 1, kMaxVocab));
  QS_ASSIGN_OR_RETURN(const int64_t train_length,
                      reader.Integer({"seq_length"}, 2, kMaxPositions, 8192));
  QS_ASSIGN_OR_RETURN(
      config.max_positions,
      reader.Integer({"max_position_embeddings", "n_positions"}, 1, kMaxPositions, train_length));
  QS_ASSIGN_OR_RETURN(config.norm_epsilon, reader.Number({"layer_norm_epsilon"}, 1e-12, 1, 1e-6));
  QS_ASSIGN_OR_RETURN(config.rope_base,
                      reader.Number({"rotary_emb_base", "rope_theta"}, 1, 1e12, 10000));
  QS_ASSIGN_OR_RETURN(const bool ntk, reader.Bool("use_dynamic_ntk", true));
  QS_ASSIGN_OR_RETURN(const bool logn, reader.Bool("use_logn_attn", true));
  config.ntk_train_length = ntk ? train_length : 0;
  config.logn_train_length = logn ? train_length : 0;
  QS_ASSIGN_OR_RETURN(const double rotary_share, reader.Number({"rotary_pct"}, 0, 1, 1));
  if (rotary_share != 1) {
    return reader.Unsupported("rotary_pct", rotary_share, "only 1.0 is supported");
  }
  QS_ASSIGN_OR_RETURN(const bool no_bias, reader.Bool("no_bias", true));
  if (!no_bias) return reader.Unsupported("no_bias", no_bias, "only true is supported");
  QS_ASSIGN_OR_RETURN(const bool scaled, reader.Bool("scale_attn_weights", true));
  if (!scaled) return reader.Unsupported("scale_attn_weights", scaled, "only true is supported");
  config.qkv_bias = true;
  return absl::OkStatus();
}

absl::Status ReadYarn(const ConfigReader& rope, ModelConfig& config) {
  YarnScaling yarn;
  QS_ASSIGN_OR_RETURN(yarn.factor, rope.Number({"factor"}, 1, 1024, -1));
  if (yarn.factor < 0) return rope.Invalid("factor", "is missing");
  QS_ASSIGN_OR_RETURN(yarn.original_max_positions,
                      rope.Integer({"original_max_position_embeddings"}, 1, kMaxPositions));
  const struct {
    absl::string_view name;
    double only;
  } kFixed[] = {{"beta_fast", 32}, {"beta_slow", 1}};
  for (const auto& field : kFixed) {
    QS_ASSIGN_OR_RETURN(const double value, rope.Number({field.name}, 0, 1e6, field.only));
    if (value != field.only) {
      return rope.Unsupported(field.name, value,
                              absl::StrCat("only ", field.only, " is supported"));
    }
  }
  for (const char* field : {"attention_factor", "mscale", "mscale_all_dim", "truncate"}) {
    if (const Json* value = rope.Find(field); value != nullptr) {
      return rope.Unsupported(field, *value, "not supported with YaRN; remove it");
    }
  }
  const double extended = yarn.factor * static_cast<double>(yarn.original_max_positions);
  if (extended > kMaxPositions) {
    return rope.Invalid("factor", absl::StrCat("times original_max_position_embeddings is ",
                                               extended, ", more than ", kMaxPositions));
  }
  config.max_positions = std::max(config.max_positions, static_cast<int64_t>(extended));
  config.yarn = yarn;
  return absl::OkStatus();
}

// Rope settings lie in rope_scaling (with rope_theta beside it) or, in files saved by newer tools,
// in rope_parameters (with rope_theta inside).
absl::Status ReadRope(const ConfigReader& reader, ModelConfig& config) {
  QS_ASSIGN_OR_RETURN(config.rope_base, reader.Number({"rope_theta"}, 1, 1e12, 10000));
  for (const char* field : {"rope_parameters", "rope_scaling"}) {
    const Json* json = reader.Find(field);
    if (json == nullptr) continue;
    if (!json->is_object()) return reader.Invalid(field, "is not an object");
    const ConfigReader rope(*json, absl::StrCat(reader.source(), ": ", field));
    QS_ASSIGN_OR_RETURN(config.rope_base, rope.Number({"rope_theta"}, 1, 1e12, config.rope_base));
    QS_ASSIGN_OR_RETURN(const std::string older, rope.String("type", "default"));
    QS_ASSIGN_OR_RETURN(const std::string type, rope.String("rope_type", older));
    if (type == "yarn") {
      QS_RETURN_IF_ERROR(ReadYarn(rope, config));
    } else if (type != "default") {
      return reader.Unsupported(absl::StrCat(field, ".rope_type"), type, "only yarn is supported");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckQwen2Features(const ConfigReader& reader, CheckpointStyle style) {
  QS_ASSIGN_OR_RETURN(const bool sliding, reader.Bool("use_sliding_window", false));
  if (sliding) {
    return reader.Unsupported("use_sliding_window", sliding, "only full attention is supported");
  }
  if (const Json* types = reader.Find("layer_types"); types != nullptr && types->is_array()) {
    for (const Json& type : *types) {
      if (type != "full_attention") {
        return reader.Unsupported("layer_types", type, "only full_attention is supported");
      }
    }
  }
  if (const Json* chunks = reader.Find("dual_chunk_attention_config"); chunks != nullptr) {
    return reader.Unsupported(
        "dual_chunk_attention_config", *chunks,
        "attention in chunks is not supported; remove the field and lower max_position_embeddings "
        "to its original length");
  }
  QS_ASSIGN_OR_RETURN(const std::string activation, reader.String("hidden_act", "silu"));
  if (activation != "silu") {
    return reader.Unsupported("hidden_act", activation, "only silu is supported");
  }
  QS_ASSIGN_OR_RETURN(const bool bias,
                      reader.Bool("attention_bias", style == CheckpointStyle::kQwen2));
  if (bias != (style == CheckpointStyle::kQwen2)) {
    return reader.Unsupported("attention_bias", bias, "does not fit the architecture");
  }
  return absl::OkStatus();
}

absl::Status ReadQwen2(const ConfigReader& reader, ModelConfig& config) {
  QS_RETURN_IF_ERROR(CheckQwen2Features(reader, config.style));
  QS_ASSIGN_OR_RETURN(config.hidden_size, reader.Integer({"hidden_size"}, 1, kMaxWidth));
  QS_ASSIGN_OR_RETURN(config.num_layers, reader.Integer({"num_hidden_layers"}, 1, kMaxHeads));
  QS_ASSIGN_OR_RETURN(config.num_query_heads,
                      reader.Integer({"num_attention_heads"}, 1, kMaxHeads));
  QS_ASSIGN_OR_RETURN(config.num_kv_heads, reader.Integer({"num_key_value_heads"}, 1, kMaxHeads,
                                                          config.num_query_heads));
  if (reader.Find("head_dim") != nullptr) {
    QS_ASSIGN_OR_RETURN(config.head_dim, reader.Integer({"head_dim"}, 1, kMaxHeads));
  } else {
    QS_ASSIGN_OR_RETURN(config.head_dim, HeadDimFromHidden(reader, config));
  }
  QS_ASSIGN_OR_RETURN(config.ffn_size, reader.Integer({"intermediate_size"}, 1, kMaxWidth));
  QS_ASSIGN_OR_RETURN(config.vocab_size, reader.Integer({"vocab_size"}, 1, kMaxVocab));
  QS_ASSIGN_OR_RETURN(config.max_positions,
                      reader.Integer({"max_position_embeddings"}, 1, kMaxPositions));
  QS_ASSIGN_OR_RETURN(config.norm_epsilon, reader.Number({"rms_norm_eps"}, 1e-12, 1, 1e-6));
  QS_RETURN_IF_ERROR(ReadRope(reader, config));
  config.qkv_bias = config.style == CheckpointStyle::kQwen2;
  config.qk_norm = config.style == CheckpointStyle::kQwen3;
  return absl::OkStatus();
}

// Qwen1 has a flag for each type, all false where any will do; bf16 is what the files hold then.
absl::StatusOr<DType> ReadFloatType(const ConfigReader& reader) {
  const Json* named = reader.Find({"torch_dtype", "dtype"});
  const auto is = [&](const char* name) { return named != nullptr && *named == name; };
  QS_ASSIGN_OR_RETURN(const bool fp32, reader.Bool("fp32", false));
  QS_ASSIGN_OR_RETURN(const bool fp16, reader.Bool("fp16", false));
  if (is("float32") || (named == nullptr && fp32)) return DType::kF32;
  if (is("float16") || (named == nullptr && fp16)) return DType::kF16;
  return DType::kBf16;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json, const std::string& source) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": not a JSON object"));
  }
  const ConfigReader reader(json, source);
  ModelConfig config;
  QS_ASSIGN_OR_RETURN(config.style, ReadStyle(reader, config.architecture));
  QS_RETURN_IF_ERROR(ReadQuantization(reader, config));
  QS_RETURN_IF_ERROR(config.style == CheckpointStyle::kQwen1 ? ReadQwen1(reader, config)
                                                             : ReadQwen2(reader, config));
  QS_ASSIGN_OR_RETURN(config.float_type, ReadFloatType(reader));
  QS_ASSIGN_OR_RETURN(config.tied_embeddings, reader.Bool("tie_word_embeddings", false));
  QS_RETURN_IF_ERROR(CheckSizes(reader, config));
  return config;
}

}  // namespace qwenserve
