#include "tools/bench/bench_command.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/loader/weight_choice.h"
#include "kernels/backend.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// The value of the first line of /proc/cpuinfo that starts with `name`; empty on other systems.
std::string CpuInfo(const std::string& name) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || colon + 2 > line.size()) continue;
    std::string key = line.substr(0, colon);
    key.erase(key.find_last_not_of(" \t") + 1);
    if (key == name) return line.substr(colon + 2);
  }
  return "";
}

std::string CpuName() {
  return absl::StrCat(CpuInfo("model name"), " (family ", CpuInfo("cpu family"), " model ",
                      CpuInfo("model"), ")");
}

}  // namespace

void AddEngineFlags(CLI::App& command, EngineFlags* flags) {
  EngineOptions& options = flags->options;
  command.add_option("--model", options.model_dir, "model directory")->required();
  command.add_option("--load-format", flags->load_format, "dummy = random weights by config.json")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->capture_default_str();
  command.add_option("--weights", flags->weights, "auto (as the checkpoint), bf16, int8 or int4")
      ->capture_default_str();
  command.add_option("--device", options.device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--gpu-mode", options.gpu_mode, "exact or fast")
      ->check(CLI::IsMember({"exact", "fast"}))
      ->capture_default_str();
  command.add_option("--kv-dtype", flags->kv_format, "KV cache: bf16, f32, int8 or qwen-int8")
      ->capture_default_str();
  command.add_option("--threads", options.num_threads, "of all ranks; 0 = what is allowed");
  command.add_option("--isa", options.isa, "instruction set, auto = the best there is")
      ->capture_default_str();
  command.add_option("--tp", options.tp, "tensor-parallel ranks");
  command.add_option("--tp-mode", flags->tp_mode, "threads or processes")
      ->check(CLI::IsMember({"threads", "processes"}));
  command
      .add_option("--run-ahead", flags->run_ahead,
                  "plan a step while the one before runs: auto (where the device works by itself), "
                  "on or off")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
}

absl::StatusOr<EngineOptions> OptionsFrom(const EngineFlags& flags) {
  EngineOptions options = flags.options;
  QS_ASSIGN_OR_RETURN(options.load_format, ParseLoadFormat(flags.load_format));
  QS_ASSIGN_OR_RETURN(options.weights, ParseWeightChoice(flags.weights));
  const std::optional<KvFormat> kv_format = KvFormatFromName(flags.kv_format);
  if (!kv_format.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--kv-dtype: unknown format \"", flags.kv_format, "\""));
  }
  options.kv_format = *kv_format;
  options.rank_binary = "/proc/self/exe";
  options.rank_mode = flags.tp_mode == "threads" ? RankMode::kThreads : RankMode::kProcesses;
  if (flags.run_ahead != "auto") options.run_ahead = flags.run_ahead == "on";
  return options;
}

Json MachineAndOptions(const EngineFlags& flags) {
  const EngineOptions& options = flags.options;
  Json result;
  result["cpu"] = CpuName();
  const auto isa = CpuIsaName(options.isa);
  result["isa"] = isa.ok() ? *isa : options.isa;
  double load[3] = {0, 0, 0};
  (void)getloadavg(load, 3);
  result["load_average"] = {load[0], load[1], load[2]};
  result["model"] = options.model_dir;
  result["load_format"] = flags.load_format;
  result["weights"] = flags.weights;
  result["device"] = options.device;
  result["gpu_mode"] = options.gpu_mode;
  result["kv_dtype"] = flags.kv_format;
  result["threads"] = options.num_threads;
  result["tp"] = options.tp;
  result["run_ahead"] = flags.run_ahead;
  return result;
}

double Median(std::vector<double> values) {
  QS_CHECK(!values.empty());
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

}  // namespace qwenserve
