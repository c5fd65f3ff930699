#ifndef QWENSERVE_TOOLS_BENCH_BENCH_COMMAND_H_
#define QWENSERVE_TOOLS_BENCH_BENCH_COMMAND_H_

#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/json_reader.h"
#include "engine/runtime/engine_options.h"

namespace qwenserve {

// The subcommands of qwenserve_bench. Each Add...Command makes one; its settings live as long as
// the app. What it measures is run by the parsed app's callback, which puts the result, one JSON
// object, into `result`, or why there is none into `status`.
struct BenchOutput {
  Json result;
  absl::Status status;
};

void AddBesideCommand(CLI::App& app, BenchOutput* output);
void AddEngineCommand(CLI::App& app, BenchOutput* output);
void AddLoadCommand(CLI::App& app, BenchOutput* output);
void AddMemoryCommand(CLI::App& app, BenchOutput* output);
void AddStepCommand(CLI::App& app, BenchOutput* output);

// Flags that say which engine to measure: --model --load-format --weights --device --threads --isa
// --tp
// --tp-mode.
struct EngineFlags {
  EngineOptions options;
  std::string load_format = "auto";
  std::string weights = "auto";
  std::string kv_format = "bf16";
  std::string tp_mode = "threads";
  std::string run_ahead = "auto";
};
void AddEngineFlags(CLI::App& command, EngineFlags* flags);
absl::StatusOr<EngineOptions> OptionsFrom(const EngineFlags& flags);

// What every result begins with: CPU, load average, command's engine options and the instruction
// set in use. A benchmark on a shared machine means nothing without them.
Json MachineAndOptions(const EngineFlags& flags);

double Median(std::vector<double> values);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_BENCH_COMMAND_H_
