#include "engine/runtime/rank_settings.h"

#include <cstdlib>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

absl::Status ReadInteger(const Json& json, const char* name, int64_t* value) {
  const auto it = json.find(name);
  if (it == json.end() || !it->is_number_integer()) {
    return absl::InvalidArgumentError(absl::StrCat("rank settings: no integer \"", name, "\""));
  }
  *value = it->get<int64_t>();
  return absl::OkStatus();
}

absl::Status ReadKvSizing(const Json& json, KvSizing* sizing) {
  QS_RETURN_IF_ERROR(ReadInteger(json, "most_blocks", &sizing->most_blocks));
  const auto fraction = json.find("memory_fraction");
  const auto shorten = json.find("may_shorten");
  if (fraction == json.end() || !fraction->is_number() || shorten == json.end() ||
      !shorten->is_boolean()) {
    return absl::InvalidArgumentError(
        "rank settings: no number \"memory_fraction\" or no \"may_shorten\"");
  }
  sizing->memory_fraction = fraction->get<double>();
  sizing->may_shorten = shorten->get<bool>();
  return absl::OkStatus();
}

absl::Status ReadString(const Json& json, const char* name, std::string* value) {
  const auto it = json.find(name);
  if (it == json.end() || !it->is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("rank settings: no string \"", name, "\""));
  }
  *value = it->get<std::string>();
  return absl::OkStatus();
}

}  // namespace

std::string SettingsToJson(const RankSettings& settings) {
  Json json;
  json["model_dir"] = settings.model_dir;
  json["device"] = settings.device;
  json["isa"] = settings.isa;
  json["load_format"] = LoadFormatName(settings.load_format);
  json["weights"] = WeightChoiceName(settings.weights);
  json["tp"] = settings.tp;
  json["rank"] = settings.rank;
  json["device_index"] = settings.device_index;
  json["gpu_mode"] = settings.gpu_mode;
  json["nccl_library"] = settings.nccl_library;
  json["num_threads"] = settings.num_threads;
  json["cpus"] = settings.cpus;
  json["kv_format"] = KvFormatName(settings.kv_format);
  json["max_rows"] = settings.limits.max_rows;
  json["max_sequences"] = settings.limits.max_sequences;
  json["max_model_len"] = settings.limits.max_model_len;
  json["num_blocks"] = settings.limits.num_blocks;
  json["memory_fraction"] = settings.kv_sizing.memory_fraction;
  json["most_blocks"] = settings.kv_sizing.most_blocks;
  json["may_shorten"] = settings.kv_sizing.may_shorten;
  json["sample_pairs"] = settings.sample_pairs;
  json["run_ahead"] = settings.run_ahead ? 1 : 0;
  json["step_timeout_ms"] = absl::ToInt64Milliseconds(settings.step_timeout);
  return json.dump();
}

absl::StatusOr<RankSettings> SettingsFromJson(absl::string_view text) {
  QS_ASSIGN_OR_RETURN(const Json json, ParseJson(text, "rank settings"));
  if (!json.is_object()) return absl::InvalidArgumentError("rank settings: not an object");
  RankSettings settings;
  QS_RETURN_IF_ERROR(ReadString(json, "model_dir", &settings.model_dir));
  QS_RETURN_IF_ERROR(ReadString(json, "device", &settings.device));
  QS_RETURN_IF_ERROR(ReadString(json, "gpu_mode", &settings.gpu_mode));
  QS_RETURN_IF_ERROR(ReadString(json, "isa", &settings.isa));
  std::string load_format, weights;
  QS_RETURN_IF_ERROR(ReadString(json, "load_format", &load_format));
  QS_ASSIGN_OR_RETURN(settings.load_format, ParseLoadFormat(load_format));
  QS_RETURN_IF_ERROR(ReadString(json, "weights", &weights));
  QS_ASSIGN_OR_RETURN(settings.weights, ParseWeightChoice(weights));
  QS_RETURN_IF_ERROR(ReadString(json, "nccl_library", &settings.nccl_library));
  int64_t tp = 0, rank = 0, device = 0, threads = 0, timeout = 0, run_ahead = 0;
  QS_RETURN_IF_ERROR(ReadInteger(json, "tp", &tp));
  QS_RETURN_IF_ERROR(ReadInteger(json, "rank", &rank));
  QS_RETURN_IF_ERROR(ReadInteger(json, "device_index", &device));
  QS_RETURN_IF_ERROR(ReadInteger(json, "num_threads", &threads));
  std::string kv_format;
  QS_RETURN_IF_ERROR(ReadString(json, "kv_format", &kv_format));
  QS_RETURN_IF_ERROR(ReadInteger(json, "max_rows", &settings.limits.max_rows));
  QS_RETURN_IF_ERROR(ReadInteger(json, "max_sequences", &settings.limits.max_sequences));
  QS_RETURN_IF_ERROR(ReadInteger(json, "max_model_len", &settings.limits.max_model_len));
  QS_RETURN_IF_ERROR(ReadInteger(json, "num_blocks", &settings.limits.num_blocks));
  QS_RETURN_IF_ERROR(ReadKvSizing(json, &settings.kv_sizing));
  QS_RETURN_IF_ERROR(ReadInteger(json, "sample_pairs", &settings.sample_pairs));
  QS_RETURN_IF_ERROR(ReadInteger(json, "run_ahead", &run_ahead));
  QS_RETURN_IF_ERROR(ReadInteger(json, "step_timeout_ms", &timeout));
  if (rank < 0 || rank >= tp || tp > 4096 || device < 0 || device > 4096 || threads < 1 ||
      threads > 65536 || timeout < 1 || settings.limits.max_rows < 1 ||
      settings.limits.max_sequences < 1 || settings.limits.max_model_len < 1 ||
      settings.limits.num_blocks < 0 ||
      settings.limits.num_blocks + settings.kv_sizing.most_blocks < 1 ||
      settings.sample_pairs < 0 || settings.sample_pairs > kMaxSamplePairs) {
    return absl::InvalidArgumentError(absl::StrCat("rank settings: impossible numbers: ", text));
  }
  const auto cpus = json.find("cpus");
  if (cpus == json.end() || !cpus->is_array()) {
    return absl::InvalidArgumentError("rank settings: no array \"cpus\"");
  }
  for (const Json& cpu : *cpus) {
    if (!cpu.is_number_integer()) return absl::InvalidArgumentError("rank settings: \"cpus\"");
    settings.cpus.push_back(cpu.get<int>());
  }
  settings.run_ahead = run_ahead != 0;
  settings.tp = static_cast<int>(tp);
  settings.rank = static_cast<int>(rank);
  settings.device_index = static_cast<int>(device);
  settings.num_threads = static_cast<int>(threads);
  const std::optional<KvFormat> format = KvFormatFromName(kv_format);
  if (!format.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank settings: unknown \"kv_format\": ", kv_format));
  }
  settings.kv_format = *format;
  settings.step_timeout = absl::Milliseconds(timeout);
  return settings;
}

namespace {

// Of this user, by the XDG base directory specification; empty where there is no home.
std::string CacheDir() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return absl::StrCat(cache, "/qwenserve");
  const char* home = std::getenv("HOME");
  return home == nullptr || home[0] == '\0' ? "" : absl::StrCat(home, "/.cache/qwenserve");
}

absl::StatusOr<std::unique_ptr<Backend>> MakeDevice(const RankSettings& settings) {
  if (settings.device == "cuda") {
    CudaBackendOptions options;
    options.device = settings.device_index;
    options.exact = settings.gpu_mode == "exact";
    options.cache_dir = CacheDir();
    options.timeout = settings.step_timeout;
    options.warn = [](absl::string_view text) { spdlog::warn("GPU: {}", std::string(text)); };
    return MakeCudaBackend(options);
  }
  if (settings.device != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("device \"", settings.device, "\" is unknown: auto, cpu or cuda"));
  }
  CpuBackendOptions options;
  options.num_threads = settings.num_threads;
  options.cpus = settings.cpus;
  options.isa = settings.isa;
  return MakeCpuBackend(options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeRankBackend(const RankSettings& settings) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<Backend> device, MakeDevice(settings));
  if (settings.wrap_backend == nullptr) return device;
  return settings.wrap_backend(std::move(device));
}

}  // namespace qwenserve
