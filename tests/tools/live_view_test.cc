#include "tools/qwenctl/live_view.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

constexpr char kBefore[] =
    "# HELP x y\nqwenserve_time_to_first_token_seconds_bucket{le=\"0.1\"} 10\n"
    "qwenserve_time_to_first_token_seconds_bucket{le=\"0.2\"} 10\n"
    "qwenserve_time_to_first_token_seconds_bucket{le=\"+Inf\"} 10\n"
    "qwenserve_gateway_completion_tokens_total 100\n"
    "qwenserve_gateway_requests_total{code=\"OK\"} 5\n";
constexpr char kNow[] =
    "qwenserve_time_to_first_token_seconds_bucket{le=\"0.1\"} 10\n"
    "qwenserve_time_to_first_token_seconds_bucket{le=\"0.2\"} 18\n"
    "qwenserve_time_to_first_token_seconds_bucket{le=\"+Inf\"} 20\n"
    "qwenserve_gateway_completion_tokens_total 300\n"
    "qwenserve_gateway_requests_total{code=\"OK\"} 6\n"
    "qwenserve_gateway_requests_total{code=\"CANCELLED\"} 1\n"
    "qwenserve_gateway_requests_total_else 1000\n";

TEST(MetricsSnapshot, SumsSeriesOfTheName) {
  const MetricsSnapshot now = MetricsSnapshot::Parse(kNow);
  EXPECT_EQ(now.Sum("qwenserve_gateway_requests_total"), 7);
  EXPECT_EQ(now.Sum("qwenserve_nothing"), 0);
}

TEST(MetricsSnapshot, QuantilesAreOfTheTimeBetween) {
  const MetricsSnapshot before = MetricsSnapshot::Parse(kBefore);
  const MetricsSnapshot now = MetricsSnapshot::Parse(kNow);
  const std::string name = "qwenserve_time_to_first_token_seconds";
  EXPECT_DOUBLE_EQ(now.Quantile(name, 0.4, before), 0.15);
  EXPECT_DOUBLE_EQ(now.Quantile(name, 0.99, before), 0.2);  // all that the buckets tell
  EXPECT_TRUE(std::isnan(now.Quantile(name, 0.5, now)));
}

LiveSample MakeSample(absl::Time when, uint64_t step, const char* metrics) {
  LiveSample sample = {when, {}, MetricsSnapshot::Parse(metrics)};
  sample.status.set_role("gateway");
  sample.status.set_state(v1::PROCESS_STATE_SERVING);
  v1::WorkerStatus* worker = sample.status.add_workers();
  worker->set_role("generator");
  worker->set_address("10.0.0.7:50071");
  worker->set_instance_id("g1");
  worker->set_state(v1::PROCESS_STATE_NOT_SERVING);
  worker->set_reason("silent");
  worker->mutable_engine()->set_step(step);
  worker->mutable_engine()->set_total_blocks(100);
  worker->mutable_engine()->set_free_blocks(75);
  return sample;
}

TEST(LiveView, RatesAreOfTheTimeBetween) {
  const absl::Time t = absl::UnixEpoch();
  const Json live =
      LiveJson(MakeSample(t, 10, kBefore), MakeSample(t + absl::Seconds(2), 110, kNow));
  EXPECT_EQ(live["rates"]["tokens_per_s"], 100.0);
  EXPECT_EQ(live["rates"]["requests_per_s"], 1.0);
  EXPECT_EQ(live["workers"][0]["engine"]["kv_blocks_used"], 25);
  EXPECT_EQ(live["workers"][0]["state"], "NOT_SERVING");
  const std::string table = LiveTable(live);
  for (const char* part : {"10.0.0.7:50071", "NOT_SERVING", "25.0%", "silent"}) {
    EXPECT_THAT(table, testing::HasSubstr(part));
  }
}

void SetCounts(uint64_t prompt_tokens, uint64_t generated_tokens, int64_t read_at_seconds,
               LiveSample* sample) {
  v1::EngineStats* engine = sample->status.mutable_workers(0)->mutable_engine();
  engine->set_prompt_tokens(prompt_tokens);
  engine->set_generated_tokens(generated_tokens);
  engine->mutable_read_at()->set_seconds(read_at_seconds);
}

TEST(LiveView, RatesOfAReplicaAreOfTheTimeBetweenItsHeartbeats) {
  const absl::Time t = absl::UnixEpoch();
  LiveSample before = MakeSample(t, 10, kBefore);
  LiveSample now = MakeSample(t + absl::Seconds(2), 110, kNow);
  SetCounts(1000, 50, 7, &before);
  SetCounts(5000, 250, 11, &now);
  const Json live = LiveJson(before, now);
  const Json& engine = live["workers"][0]["engine"];
  EXPECT_EQ(engine["steps_per_s"], 25.0);
  EXPECT_EQ(engine["prompt_tokens_per_s"], 1000.0);
  EXPECT_EQ(engine["tokens_per_s"], 50.0);
  EXPECT_THAT(LiveTable(live), testing::ContainsRegex("PREFILL/S +TOKENS/S\n"
                                                      ".* 25\\.0 +1000 +50  silent"));
}

TEST(LiveView, AReplicaHasNoRatesWithoutANewHeartbeatOrFromBeforeItsRestart) {
  const absl::Time t = absl::UnixEpoch();
  LiveSample before = MakeSample(t, 10, kBefore);
  LiveSample now = MakeSample(t + absl::Seconds(2), 10, kNow);
  SetCounts(1000, 50, 7, &before);
  SetCounts(1000, 50, 7, &now);
  EXPECT_FALSE(LiveJson(before, now)["workers"][0]["engine"].contains("tokens_per_s"));
  SetCounts(10, 5, 9, &now);
  now.status.mutable_workers(0)->set_instance_id("g2");
  EXPECT_FALSE(LiveJson(before, now)["workers"][0]["engine"].contains("tokens_per_s"));
}

TEST(LiveView, AReplicaOfAnOlderVersionHasNoRates) {
  const absl::Time t = absl::UnixEpoch();
  const Json live =
      LiveJson(MakeSample(t, 10, kBefore), MakeSample(t + absl::Seconds(2), 110, kNow));
  EXPECT_FALSE(live["workers"][0]["engine"].contains("steps_per_s"));
  EXPECT_THAT(LiveTable(live), testing::HasSubstr("25.0%        -         -         -"));
}

TEST(LiveView, WithoutMetricsThereAreNoRates) {
  LiveSample sample = MakeSample(absl::UnixEpoch(), 1, "");
  sample.metrics.reset();
  const Json live = LiveJson(sample, sample);
  EXPECT_FALSE(live.contains("rates"));
  EXPECT_THAT(LiveTable(live), testing::Not(testing::HasSubstr("prompt tokens/s")));
}

TEST(LiveView, SaysWhenItDoesNotShowAllRequests) {
  v1::ListRequestsResponse response;
  v1::RequestSummary* request = response.add_requests();
  request->set_request_id("req-1");
  request->mutable_start_time()->set_seconds(100);
  response.set_total(7);
  const Json json = RequestsJson(response, absl::FromUnixSeconds(103));
  EXPECT_EQ(json["requests"][0]["age_s"], 3.0);
  EXPECT_THAT(RequestsTable(json), testing::HasSubstr("1 of 7"));
}

}  // namespace
}  // namespace qwenserve
