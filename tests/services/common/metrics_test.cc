#include "services/common/metrics.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetricsTest, EverySeriesExistsAtZero) {
  Metrics metrics("gateway");
  ServerMetrics server(metrics);
  GatewayMetrics gateway(metrics);
  GeneratorMetrics generator(metrics, "demo");
  TokenizerMetrics tokenizer(metrics);
  const std::string text = metrics.Scrape();
  EXPECT_THAT(text, HasSubstr("qwenserve_build_info{role=\"gateway\",version=\""));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_requests_total{code=\"RESOURCE_EXHAUSTED\","
                              "method=\"StreamChat\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_gateway_requests_total{code=\"OK\",method=\"Chat\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_kv_blocks_used{model=\"demo\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("qwenserve_grpc_connections_refused_total{cause=\"descriptors\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_time_to_first_token_seconds_bucket{le=\"+Inf\"} 0\n"));
}

TEST(MetricsTest, ProcessValuesAreRead) {
  Metrics metrics("tokenizer");
  const std::string text = metrics.Scrape();
  EXPECT_THAT(text, ContainsRegex("\nprocess_open_fds [1-9]"));
  EXPECT_THAT(text, ContainsRegex("\nprocess_resident_memory_bytes [1-9]"));
  EXPECT_THAT(text, ContainsRegex("\nprocess_max_fds [1-9]"));
}

TEST(MetricsTest, HooksRunAtEachScrapeUntilCleared) {
  Metrics metrics("generator");
  GeneratorMetrics generator(metrics, "demo");
  uint64_t steps = 0;
  metrics.OnScrape([&] { RaiseTo(generator.steps, static_cast<double>(++steps)); });
  EXPECT_THAT(metrics.Scrape(), HasSubstr("qwenserve_engine_steps_total{model=\"demo\"} 1\n"));
  EXPECT_THAT(metrics.Scrape(), HasSubstr("qwenserve_engine_steps_total{model=\"demo\"} 2\n"));
  metrics.ClearScrapeHooks();
  EXPECT_THAT(metrics.Scrape(), HasSubstr("qwenserve_engine_steps_total{model=\"demo\"} 2\n"));
}

TEST(MetricsTest, CodesOutOfRangeCountAsUnknown) {
  Metrics metrics("gateway");
  GatewayMetrics gateway(metrics);
  gateway.requests[GatewayMetrics::kChat].Increment(static_cast<absl::StatusCode>(99));
  EXPECT_THAT(metrics.Scrape(), HasSubstr("requests_total{code=\"UNKNOWN\",method=\"Chat\"} 1\n"));
}

TEST(MetricsTest, NamesFollowTheConvention) {
  Metrics metrics("gateway");
  ServerMetrics server(metrics);
  GatewayMetrics gateway(metrics);
  GeneratorMetrics generator(metrics, "demo");
  TokenizerMetrics tokenizer(metrics);
  for (const auto& family : metrics.registry().Collect()) {
    const bool counter = family.type == prometheus::MetricType::Counter;
    EXPECT_EQ(family.name.ends_with("_total"), counter) << family.name;
    EXPECT_TRUE(family.name.starts_with("qwenserve_") || family.name.starts_with("process_"))
        << family.name;
    EXPECT_FALSE(family.help.empty()) << family.name;
    EXPECT_THAT(family.name, Not(HasSubstr("milli")));
  }
}

}  // namespace
}  // namespace qwenserve
