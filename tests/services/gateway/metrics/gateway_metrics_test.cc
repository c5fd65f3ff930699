#include "services/gateway/metrics/gateway_metrics.h"

#include <algorithm>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/gateway/metrics/edge_metrics.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(GatewayMetricsTest, EverySeriesExistsAtZero) {
  Metrics metrics("gateway");
  GatewayMetrics gateway(metrics);
  std::string text = metrics.Scrape();
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_requests_total{code=\"RESOURCE_EXHAUSTED\","
                              "method=\"StreamChat\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_requests_total{code=\"OK\",method=\"Chat\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_cancels_total{stage=\"waiting\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("model=")));
  gateway.OfModel("demo");
  text = metrics.Scrape();
  EXPECT_THAT(
      text,
      HasSubstr("qwenserve_time_to_first_token_seconds_bucket{model=\"demo\",le=\"+Inf\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_model_queued_requests{model=\"demo\"} 0\n"));
}

// What the model server protocol asks for.
TEST(GatewayMetricsTest, LoadOfAModelIsThatOfItsReplicasAndOfTheQueue) {
  Metrics metrics("gateway");
  GatewayMetrics gateway(metrics);
  gateway.OfModel("a");
  gateway.OfModel("b");
  ModelLoad load;
  load.replicas = 2;
  load.running = 7;
  load.waiting = 3;
  load.used_blocks = 50;
  load.total_blocks = 200;
  load.block_tokens = 16;
  gateway.SetLoads({{"a", load}}, {{"a", 4}, {"b", 1}});
  std::string text = metrics.Scrape();
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_model_queued_requests{model=\"a\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_model_running_requests{model=\"a\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_model_kv_cache_usage_ratio{model=\"a\"} 0.25\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_model_replicas{model=\"a\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_queue_depth{model=\"a\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_model_queued_requests{model=\"b\"} 1\n"));
  const std::string info = "qwenserve_gateway_model_cache_info{block_size=\"16\",";
  EXPECT_THAT(text, HasSubstr(info + "model=\"a\",num_gpu_blocks=\"200\"} 1\n"));

  // A replica comes: the information is another one, not one more.
  load.total_blocks = 300;
  gateway.SetLoads({{"a", load}}, {});
  text = metrics.Scrape();
  EXPECT_THAT(text, HasSubstr(info + "model=\"a\",num_gpu_blocks=\"300\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("num_gpu_blocks=\"200\"")));

  // All go.
  gateway.SetLoads({}, {});
  text = metrics.Scrape();
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_model_running_requests{model=\"a\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_model_kv_cache_usage_ratio{model=\"a\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_model_replicas{model=\"a\"} 0\n"));
}

TEST(GatewayMetricsTest, ReplicasThatComeAndGoAddNoSeries) {
  Metrics metrics("gateway");
  GatewayMetrics gateway(metrics);
  gateway.OfModel("a");
  ModelLoad load;
  load.block_tokens = 16;
  load.total_blocks = 100;
  gateway.SetLoads({{"a", load}}, {});
  const auto lines = [&] {
    const std::string text = metrics.Scrape();
    return std::count(text.begin(), text.end(), '\n');
  };
  const auto before = lines();
  for (int i = 1; i < 1000; ++i) {
    load.total_blocks = 100 * (i % 7 + 1);
    gateway.SetLoads({{"a", load}}, {});
  }
  EXPECT_EQ(lines(), before);
}

}  // namespace
}  // namespace qwenserve
