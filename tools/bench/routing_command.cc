// qwenserve_routing: compares ways to choose a replica in a simulation; prints a table in Markdown.
#include <cstdio>
#include <vector>

#include "CLI/CLI.hpp"
#include "tools/bench/routing_simulation.h"

namespace qwenserve {
namespace {

using Policy = RoutingPolicy;

void PrintRow(const char* name, const RoutingResult& result) {
  std::printf("| %s | %lld | %.1f %% | %.0f | %.0f | %d |\n", name,
              static_cast<long long>(result.requests), 100 * result.hit_rate,
              absl::ToDoubleMilliseconds(result.ttft_p50),
              absl::ToDoubleMilliseconds(result.ttft_p99), result.ejections);
  std::fflush(stdout);
  if (result.failed > 0) std::printf("FAILED: %lld\n", static_cast<long long>(result.failed));
}

int Main(int argc, char** argv) {
  RoutingScenario scenario;
  std::vector<double> loads = {15, 30, 40, 50};
  double seconds = 120;
  CLI::App app("Compares ways to choose a replica");
  app.add_option("--seed", scenario.seed)->capture_default_str();
  app.add_option("--replicas", scenario.replicas)->capture_default_str();
  app.add_option("--gateways", scenario.gateways)->capture_default_str();
  app.add_option("--seconds", seconds, "virtual")->capture_default_str();
  app.add_option("--loads", loads, "conversations per second")->capture_default_str();
  app.add_option("--roaming", scenario.roaming)->capture_default_str();
  app.add_option("--cache-blocks", scenario.cache_blocks)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  scenario.length = absl::Seconds(seconds);
  scenario.warm_up = scenario.length / 6;
  for (double load : loads) {
    scenario.conversations_per_second = load;
    std::printf("\n%g conversations per second:\n\n", load);
    std::printf("| | requests | cache hits | TTFT p50, ms | p99, ms | ejections |\n");
    std::printf("|---|---|---|---|---|---|\n");
    for (Policy policy : {Policy::kRoundRobin, Policy::kRandom, Policy::kLeastLoad,
                          Policy::kPowerOfTwo, Policy::kHomeOnly, Policy::kOurs}) {
      scenario.policy = policy;
      PrintRow(RoutingPolicyName(policy), SimulateRouting(scenario));
    }
    scenario.eject = false;
    PrintRow("qwenserve, no ejection", SimulateRouting(scenario));
    scenario.eject = true;
  }
  return 0;
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) { return qwenserve::Main(argc, argv); }
