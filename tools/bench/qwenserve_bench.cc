// qwenserve_bench: measures one part of a replica, beside what the machine can do in the same run.
//
//   qwenserve_bench engine --model DIR --threads 2 --prompt 512 --decode 64 --batch 1
//   qwenserve_bench load   --model DIR --threads 2 --max-model-len 8192
//   qwenserve_bench memory
//   qwenserve_bench step   --model DIR --threads 2 --batch 1 64
//   qwenserve_bench beside --model DIR --threads 2 --prompt 8192 --chats 4
//
// --output json prints one JSON object, text the same as lines. Byte counts and rates are per
// second and in bytes.
#include <iostream>
#include <string>

#include "engine/runtime/follower.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"
#include "tools/bench/bench_command.h"

namespace qwenserve {
namespace {

int Main(int argc, char** argv) {
  CLI::App app("Speed and memory of a replica's parts");
  app.require_subcommand(1);
  app.fallthrough();
  std::string output_format = "text";
  app.add_option("--output", output_format, "json or text")
      ->check(CLI::IsMember({"json", "text"}))
      ->capture_default_str();
  BenchOutput output;
  AddEngineCommand(app, &output);
  AddLoadCommand(app, &output);
  AddMemoryCommand(app, &output);
  AddStepCommand(app, &output);
  AddBesideCommand(app, &output);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!output.status.ok()) {
    std::cerr << "qwenserve_bench: " << output.status.message() << "\n";
    return 1;
  }
  if (output_format == "json") {
    std::cout << output.result.dump(2) << "\n";
    return 0;
  }
  for (const auto& [name, value] : output.result.items()) {
    std::cout << name << ": " << value.dump() << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("qwenserve_bench"));
  spdlog::set_level(spdlog::level::warn);
  if (qwenserve::IsFollowerCommand(argc, argv)) return qwenserve::RunFollower(argc, argv);
  return qwenserve::Main(argc, argv);
}
