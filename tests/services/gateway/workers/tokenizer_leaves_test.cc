// A tokenizer that leaves the list of workers. Nothing else in this process has a channel, so that
// gRPC's threads for them end with the pool's last one.
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "services/gateway/metrics/gateway_metrics.h"
#include "services/gateway/workers/tokenizer_pool.h"
#include "tests/services/gateway/fake_tokenizer.h"

namespace qwenserve {
namespace {

void TickUntil(TokenizerPool& pool, size_t known) {
  while (pool.Known().size() != known) {
    pool.Tick(absl::Now());
    std::this_thread::yield();
  }
}

TEST(TokenizerLeavesTest, WhileGrpcIsStillInTheAnswerToACall) {
  Metrics metrics("gateway");
  GatewayMetrics gateway_metrics(metrics);
  for (int i = 0; i < 50; ++i) {
    FakeTokenizer tokenizer;
    TokenizerPool pool(
        TokenizerSettings(), [] {}, absl::Now, &gateway_metrics);
    pool.SetAddresses({tokenizer.address()});
    TickUntil(pool, 1);
    absl::Notification answered, left;
    pool.Prepare({}, "hash-1", absl::Now() + absl::Minutes(1),
                 [&](const absl::StatusOr<v1::PrepareResponse>& prepared) {
                   EXPECT_TRUE(prepared.ok()) << prepared.status();
                   answered.Notify();
                   left.WaitForNotification();
                 });
    answered.WaitForNotification();
    pool.SetAddresses({});
    TickUntil(pool, 0);
    for (int tick = 0; tick < 1000; ++tick) pool.Tick(absl::Now());  // its stream goes, too
    left.Notify();
    pool.Shutdown();
  }
}

}  // namespace
}  // namespace qwenserve
