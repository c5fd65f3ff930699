#include <algorithm>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/config_reader.h"
#include "engine/model/model_config.h"

namespace qwenserve {
namespace {

// <|endoftext|>, <|im_start|> and <|im_end|> of every released vocabulary.
constexpr int32_t kEndOfText = 151643;
constexpr int32_t kImStart = 151644;
constexpr int32_t kImEnd = 151645;

// One id or a list of them; empty when the field is missing.
absl::StatusOr<std::vector<int32_t>> ReadEosIds(const ConfigReader& reader,
                                                const ModelConfig& config) {
  std::vector<int32_t> ids;
  const Json* field = reader.Find("eos_token_id");
  if (field == nullptr) return ids;
  const Json list = field->is_array() ? *field : Json::array({*field});
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= uint64_t(config.vocab_size)) {
      return reader.Invalid("eos_token_id",
                            absl::StrCat("holds ", ShownJson(id), ", not an id below vocab_size ",
                                         config.vocab_size));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// In the ranges that requests are held to, so that no default makes every request a bad one.
absl::Status ReadSampling(const ConfigReader& reader, GenerationDefaults& defaults) {
  const struct {
    const char* name;
    double min;
    double max;
    std::optional<float>* field;
  } kFields[] = {{"temperature", 0, 100, &defaults.temperature},
                 {"top_p", 1e-6, 1, &defaults.top_p},
                 {"min_p", 0, 1, &defaults.min_p},
                 {"repetition_penalty", 0.01, 100, &defaults.repetition_penalty}};
  for (const auto& field : kFields) {
    QS_ASSIGN_OR_RETURN(*field.field, reader.OptionalNumber(field.name, field.min, field.max));
  }
  if (defaults.temperature > 0 && defaults.temperature < 1e-3f) {
    return reader.Invalid("temperature", absl::StrCat("is ", *defaults.temperature,
                                                      ", not 0 or a number from 0.001 to 100"));
  }
  if (reader.Find("top_k") != nullptr) {
    QS_ASSIGN_OR_RETURN(defaults.top_k, reader.Integer({"top_k"}, 0, 1 << 30));
  }
  QS_ASSIGN_OR_RETURN(const bool sampled, reader.Bool("do_sample", true));
  if (!sampled) defaults.temperature = 0.0f;
  return absl::OkStatus();
}

// Chat checkpoints of Qwen1 name only <|endoftext|> in their files; their own code adds the ends of
// a ChatML turn when chat_format says chatml.
absl::Status AddChatEnds(const ConfigReader& reader, const ModelConfig& config,
                         GenerationDefaults& defaults) {
  QS_ASSIGN_OR_RETURN(const std::string format, reader.String("chat_format", "raw"));
  if (config.style != CheckpointStyle::kQwen1 || format != "chatml") return absl::OkStatus();
  for (const int32_t id : {kImEnd, kImStart, kEndOfText}) {
    if (id < config.vocab_size &&
        std::find(defaults.eos_ids.begin(), defaults.eos_ids.end(), id) == defaults.eos_ids.end()) {
      defaults.eos_ids.push_back(id);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& dir,
                                                          const ModelConfig& config) {
  GenerationDefaults defaults;
  const std::string path = absl::StrCat(dir, "/generation_config.json");
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) {
    QS_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path, 1 << 20));
    if (!json.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
    }
    const ConfigReader reader(json, path);
    QS_RETURN_IF_ERROR(ReadSampling(reader, defaults));
    QS_ASSIGN_OR_RETURN(defaults.eos_ids, ReadEosIds(reader, config));
    QS_RETURN_IF_ERROR(AddChatEnds(reader, config, defaults));
  }
  if (defaults.eos_ids.empty()) {
    const std::string config_path = absl::StrCat(dir, "/config.json");
    QS_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(config_path, 1 << 20));
    QS_ASSIGN_OR_RETURN(defaults.eos_ids, ReadEosIds(ConfigReader(json, config_path), config));
  }
  if (defaults.eos_ids.empty()) {
    if (kEndOfText >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": no \"eos_token_id\", nor in config.json, and vocab_size ",
                       config.vocab_size, " is too small for the family's ", kEndOfText));
    }
    defaults.eos_ids = {kEndOfText};
    if (config.style != CheckpointStyle::kQwen1) defaults.eos_ids.push_back(kImEnd);
  }
  return defaults;
}

}  // namespace qwenserve
