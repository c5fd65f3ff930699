// qwenserve_bench memory: what this server would take for the rows of Qwen's own memory table, as a
// page for results/gpu_memory.md. Arithmetic alone; for one model's table: qwenctl doctor.
#include <iostream>

#include "tools/bench/bench_command.h"
#include "tools/bench/published_memory.h"

namespace qwenserve {

void AddMemoryCommand(CLI::App& app, BenchOutput* output) {
  CLI::App* command = app.add_subcommand("memory", "Memory beside that of Qwen's speed table");
  command->callback([output] {
    output->result = Json::object();
    std::cout << PublishedMemoryPage();
  });
}

}  // namespace qwenserve
