// qwenserve_bench load: how fast a checkpoint becomes a working engine, and what memory it holds.
//
// The files are read once before, so that the page cache has them if it has room. Memory is counted
// as anonymous + shared: pages of the checkpoint that are still mapped belong to the page cache.
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/loader/checkpoint.h"
#include "engine/runtime/engine.h"
#include "tools/bench/bench_command.h"
#include "tools/bench/step_log.h"

namespace qwenserve {
namespace {

// What an engine may hold beside weights and KV cache.
constexpr double kWorkingBytes = 150e6;
// Scales, padding and alignment.
constexpr double kWeightOverhead = 1.03;

// "Name:   123 kB" of a /proc file, in bytes; 0 when it is not there.
int64_t ProcBytes(const char* path, absl::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar("\t "), absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() >= 2 && words[0] == absl::StrCat(name, ":") &&
        absl::SimpleAtoi(words[1], &value)) {
      return value * 1024;
    }
  }
  return 0;
}

// Reads every weight file once; how many bytes they have.
int64_t WarmPageCache(const std::string& model_dir) {
  int64_t bytes = 0;
  std::vector<char> piece(size_t{1} << 20);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(model_dir, error)) {
    if (entry.path().extension() != ".safetensors") continue;
    std::ifstream file(entry.path(), std::ios::binary);
    while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())) ||
           file.gcount() > 0) {
      bytes += file.gcount();
    }
  }
  return bytes;
}

// Bytes of the weights in `format` if nothing were padded: of a quantised checkpoint what its files
// hold but for the tables that are rounded; of another one per row an fp16 scale for each 128
// weights, embedding and head in 8 bit with one scale; what is no matrix as the checkpoint has it.
absl::StatusOr<double> PlainWeightBytes(const std::string& model_dir, const std::string& format) {
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model_dir));
  const double per_weight = (format == "int4" ? 0.5 : 1.0) + 2.0 / 128;
  double bytes = 0;
  for (const TensorRef& tensor : checkpoint->tensors()) {
    const bool table =
        tensor.shape.size() == 2 && tensor.shape[0] == checkpoint->config().vocab_size;
    const bool rounded = table || !checkpoint->config().quantization.has_value();
    if (tensor.shape.size() != 2 || !rounded || (format != "int8" && format != "int4")) {
      bytes += static_cast<double>(tensor.bytes);
      continue;
    }
    const auto rows = static_cast<double>(tensor.shape[0]);
    const auto columns = static_cast<double>(tensor.shape[1]);
    bytes += table ? rows * (columns + 2) : rows * columns * per_weight;
  }
  return bytes;
}

struct LoadSettings {
  EngineFlags flags;
  int64_t max_model_len = 8192;
};

absl::StatusOr<Json> MeasureLoad(const LoadSettings& settings) {
  const std::string& dir = settings.flags.options.model_dir;
  const int64_t source_bytes = WarmPageCache(dir);
  QS_ASSIGN_OR_RETURN(EngineOptions options, OptionsFrom(settings.flags));
  options.max_model_len = settings.max_model_len;
  options.max_running = 1;  // so that the cache holds one sequence of that length
  const StepLog::Clock::time_point began = StepLog::Clock::now();
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                      Engine::Create(
                          options, [](const StepEvents&) {}, nullptr));
  const double seconds = Seconds(StepLog::Clock::now() - began);
  const EngineInfo& info = engine->info();
  const char* rollup = "/proc/self/smaps_rollup";
  const double held = static_cast<double>(ProcBytes(rollup, "Anonymous")) +
                      static_cast<double>(ProcBytes(rollup, "Pss_Shmem"));
  const double kv =
      static_cast<double>(info.kv_bytes_per_token) * static_cast<double>(settings.max_model_len);
  QS_ASSIGN_OR_RETURN(const double plain, PlainWeightBytes(dir, settings.flags.weights));
  Json result = MachineAndOptions(settings.flags);
  result["threads"] = info.num_threads;
  result["source_bytes"] = source_bytes;
  result["load_seconds"] = seconds;
  result["load_bytes_s"] = static_cast<double>(source_bytes) / seconds;
  result["max_model_len"] = settings.max_model_len;
  result["kv_cache_bytes"] = kv;
  result["weight_bytes_held"] = info.weight_bytes;
  result["weight_bytes_plain"] = plain;
  // The cache's pages are taken when they are first written: a full one counts.
  result["held_bytes"] = held;
  result["held_bytes_with_full_cache"] = held + kv;
  result["bar_bytes"] = plain * kWeightOverhead + kv + kWorkingBytes;
  result["file_pages_bytes"] = ProcBytes(rollup, "Pss_File");
  result["peak_rss_bytes"] = ProcBytes("/proc/self/status", "VmHWM");
  return result;
}

}  // namespace

void AddLoadCommand(CLI::App& app, BenchOutput* output) {
  auto settings = std::make_shared<LoadSettings>();
  CLI::App& command = *app.add_subcommand("load", "speed of loading, and the memory held after it");
  AddEngineFlags(command, &settings->flags);
  command.add_option("--max-model-len", settings->max_model_len, "tokens that the KV cache holds")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.callback([settings, output] {
    absl::StatusOr<Json> result = MeasureLoad(*settings);
    output->status = result.status();
    if (result.ok()) output->result = *std::move(result);
  });
}

}  // namespace qwenserve
