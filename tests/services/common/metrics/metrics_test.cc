#include "services/common/metrics/metrics.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/metrics/metric_builders.h"

namespace qwenserve {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

TEST(MetricsTest, EverySeriesExistsAtZero) {
  Metrics metrics("gateway");
  ServerMetrics server(metrics);
  TlsMetrics tls(metrics, "tls");
  const std::string text = metrics.Scrape();
  EXPECT_THAT(text, HasSubstr("qwenserve_build_info{role=\"gateway\",version=\""));
  EXPECT_THAT(text,
              HasSubstr("qwenserve_grpc_connections_refused_total{cause=\"descriptors\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_file_reloads_total{file=\"tls\",result=\"ok\"} 0\n"));
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
  Counter& counter =
      AddCounter(metrics, "qwenserve_engine_steps_total", "Steps", {{"model", "demo"}});
  uint64_t steps = 0;
  metrics.OnScrape([&] { RaiseTo(counter, static_cast<double>(++steps)); });
  EXPECT_THAT(metrics.Scrape(), HasSubstr("qwenserve_engine_steps_total{model=\"demo\"} 1\n"));
  EXPECT_THAT(metrics.Scrape(), HasSubstr("qwenserve_engine_steps_total{model=\"demo\"} 2\n"));
  metrics.ClearScrapeHooks();
  EXPECT_THAT(metrics.Scrape(), HasSubstr("qwenserve_engine_steps_total{model=\"demo\"} 2\n"));
}

TEST(MetricsTest, CodesOutOfRangeCountAsUnknown) {
  Metrics metrics("gateway");
  CounterPerCode codes(Counters(metrics, "requests_total", "Requests"), {{"method", "Chat"}});
  codes.Increment(static_cast<absl::StatusCode>(99));
  EXPECT_THAT(metrics.Scrape(), HasSubstr("requests_total{code=\"UNKNOWN\",method=\"Chat\"} 1\n"));
}

TEST(MetricsTest, BatchEqualsSingleObservations) {
  Metrics metrics("generator");
  const MetricBuckets bounds = {1, 2, 5};
  Histogram& single = AddHistogram(metrics, "single_seconds", "One by one", bounds);
  Histogram& batched = AddHistogram(metrics, "batched_seconds", "Together", bounds);
  HistogramBatch batch(batched, bounds);
  batch.Flush();
  EXPECT_EQ(batched.Collect().histogram.sample_count, 0u);
  for (const double value : {0.5, 1.0, 1.5, 2.0, 5.0, 7.0}) {
    for (int i = 0; i < 2; ++i) {
      single.Observe(value);
      batch.Observe(value);
    }
    single.Observe(value);
    single.Observe(value);
    batch.Observe(value, 2);
    batch.Flush();
  }
  batch.Flush();
  const auto expected = single.Collect().histogram;
  const auto got = batched.Collect().histogram;
  EXPECT_EQ(got.sample_count, 24u);
  EXPECT_EQ(got.sample_count, expected.sample_count);
  EXPECT_EQ(got.sample_sum, expected.sample_sum);
  for (size_t i = 0; i < expected.bucket.size(); ++i) {
    EXPECT_EQ(got.bucket[i].cumulative_count, expected.bucket[i].cumulative_count) << i;
  }
}

}  // namespace
}  // namespace qwenserve
