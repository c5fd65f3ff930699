#include "services/gateway/workers/tokenizer_pool.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "services/gateway/metrics/gateway_metrics.h"

namespace qwenserve {
namespace {

// Nothing else in this process has a channel, so each pool's end is that of gRPC's threads. Others
// take the cores, so that what such a thread still does after a callback may well come late.
TEST(TokenizerPoolTest, EndsWhileAWorkerIsAskedWhatItIs) {
  std::atomic<bool> over = false;
  std::vector<std::thread> others;
  for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i) {
    others.emplace_back([&over] {
      while (!over) continue;
    });
  }
  Metrics metrics("gateway");
  GatewayMetrics gateway_metrics(metrics);
  for (int i = 0; i < 200; ++i) {
    TokenizerPool pool(
        TokenizerSettings(), [] {}, absl::Now, &gateway_metrics);
    pool.SetAddresses({"127.0.0.1:1"});
    pool.Tick(absl::Now());
    pool.Shutdown();
  }
  over = true;
  for (std::thread& other : others) other.join();
}

}  // namespace
}  // namespace qwenserve
