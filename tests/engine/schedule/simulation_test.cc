// Thousands of random loads. One that fails prints its seed; --seed N runs it alone, --seeds N runs
// so many.
#include "tests/engine/schedule/simulation.h"

#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

volatile uint32_t current_seed = 0;
uint32_t first_seed = 1;
uint32_t num_seeds = 20000;

SchedulerCounters RunLoads(bool run_ahead) {
  SchedulerCounters all;
  for (uint32_t seed = first_seed; seed < first_seed + num_seeds; ++seed) {
    current_seed = seed;
    SCOPED_TRACE(testing::Message() << "to run this load alone: --seed " << seed);
    Simulation simulation(seed, run_ahead);
    simulation.Run();
    if (testing::Test::HasFailure()) return all;
    const SchedulerCounters counters = simulation.counters();
    all.preemptions += counters.preemptions;
    all.hit_tokens += counters.hit_tokens;
    all.queried_tokens += counters.queried_tokens;
    all.evictions += counters.evictions;
    all.surplus_tokens += counters.surplus_tokens;
  }
  std::printf(
      "%u seeds: %lu preemptions, %lu evictions, %lu of %lu tokens from the cache, "
      "%lu tokens too many\n",
      num_seeds, static_cast<unsigned long>(all.preemptions),
      static_cast<unsigned long>(all.evictions), static_cast<unsigned long>(all.hit_tokens),
      static_cast<unsigned long>(all.queried_tokens),
      static_cast<unsigned long>(all.surplus_tokens));
  return all;
}

class SchedulerSimulation : public testing::TestWithParam<bool> {};

TEST_P(SchedulerSimulation, EveryRandomLoadEndsRightly) {
  const SchedulerCounters all = RunLoads(GetParam());
  if (HasFailure() || num_seeds == 1) return;
  // The loads are tight enough to mean something.
  EXPECT_GT(all.preemptions, num_seeds / 5);
  EXPECT_GT(all.evictions, num_seeds);
  EXPECT_GT(all.hit_tokens, all.queried_tokens / 10);
  EXPECT_EQ(all.surplus_tokens > num_seeds / 10, GetParam());
}

INSTANTIATE_TEST_SUITE_P(StepByStepAndAhead, SchedulerSimulation, testing::Bool());

// A broken invariant of the scheduler itself stops the program.
void PrintSeed(int signal) {
  char line[64];
  const int length = std::snprintf(line, sizeof(line), "to run this load alone: --seed %u\n",
                                   static_cast<unsigned>(current_seed));
  if (write(STDERR_FILENO, line, static_cast<size_t>(length)) < 0) _exit(3);
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i + 1 < argc; i += 2) {
    const uint32_t value = static_cast<uint32_t>(std::strtoul(argv[i + 1], nullptr, 10));
    if (std::strcmp(argv[i], "--seed") == 0) {
      qwenserve::first_seed = value;
      qwenserve::num_seeds = 1;
    } else if (std::strcmp(argv[i], "--seeds") == 0) {
      qwenserve::num_seeds = value;
    } else {
      return 2;
    }
  }
  std::signal(SIGABRT, qwenserve::PrintSeed);
  return RUN_ALL_TESTS();
}
