#include "services/generator/sequence_timing.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const absl::Time kStart = absl::FromUnixSeconds(1000);

class SequenceTimingTest : public ::testing::Test {
 protected:
  SequenceTimingTest() { times_.submitted = kStart; }

  // `ids` tokens for the sequence, so many seconds after the start.
  void Event(double seconds, int ids, FinishReason finish = FinishReason::kNone) {
    SequenceEvent event;
    event.ids.assign(ids, 7);
    event.finish = finish;
    event.queue_time = absl::Seconds(2);
    timing_.OnEvent(event, /*prompt_tokens=*/30, kStart + absl::Seconds(seconds), &times_);
    StepEvents step;
    step.duration = absl::Seconds(0.5);
    step.rows = 40;
    step.batch = 3;
    timing_.OnStepEnd(step);
  }

  static void ExpectOne(const Histogram& histogram, double value) {
    EXPECT_EQ(histogram.Collect().histogram.sample_count, 1u);
    EXPECT_NEAR(histogram.Collect().histogram.sample_sum, value, 1e-9);
  }
  static uint64_t Count(const Histogram& histogram) {
    return histogram.Collect().histogram.sample_count;
  }

  Metrics registry_{"generator"};
  GeneratorMetrics metrics_{registry_, "demo"};
  SequenceTiming timing_{&metrics_};
  SequenceTimes times_;
};

TEST_F(SequenceTimingTest, ALifeInParts) {
  Event(5, 1);
  Event(6, 1);
  Event(8, 2);
  Event(9, 1, FinishReason::kStop);  // and the id that ended it
  ExpectOne(metrics_.queue_duration, 2);
  ExpectOne(metrics_.first_token, 5);
  ExpectOne(metrics_.prefill_duration, 3);
  ExpectOne(metrics_.decode_duration, 4);
  ExpectOne(metrics_.sequence_duration, 9);
  ExpectOne(metrics_.prompt_tokens_per_sequence, 30);
  ExpectOne(metrics_.tokens_per_sequence, 6);
  EXPECT_EQ(Count(metrics_.inter_token), 5u);
  EXPECT_NEAR(metrics_.inter_token.Collect().histogram.sample_sum, 4, 1e-9);
  EXPECT_EQ(metrics_.finished_stop.Value(), 1);
  EXPECT_EQ(Count(metrics_.step_duration), 4u);
  EXPECT_NEAR(metrics_.step_tokens.Collect().histogram.sample_sum, 160, 1e-9);
  EXPECT_NEAR(metrics_.step_sequences.Collect().histogram.sample_sum, 12, 1e-9);
}

TEST_F(SequenceTimingTest, OneThatOnlyEndedHasAFirstToken) {
  Event(5, 0, FinishReason::kStop);
  ExpectOne(metrics_.first_token, 5);
  ExpectOne(metrics_.tokens_per_sequence, 1);
  ExpectOne(metrics_.decode_duration, 0);
}

TEST_F(SequenceTimingTest, OneThatNeverRanHasOnlyWaited) {
  Event(2, 0, FinishReason::kDeadline);
  ExpectOne(metrics_.queue_duration, 2);
  EXPECT_EQ(metrics_.finished_deadline.Value(), 1);
  for (const Histogram* histogram :
       {&metrics_.first_token, &metrics_.prefill_duration, &metrics_.decode_duration,
        &metrics_.sequence_duration, &metrics_.tokens_per_sequence}) {
    EXPECT_EQ(Count(*histogram), 0u);
  }
}

TEST_F(SequenceTimingTest, WhatEndsBetweenStepsIsNoStep) {
  StepEvents between;
  timing_.OnStepEnd(between);
  EXPECT_EQ(Count(metrics_.step_duration), 0u);
  EXPECT_EQ(Count(metrics_.step_tokens), 0u);
}

TEST(RankMetricsTest, SeriesAreThoseThatTheRanksHave) {
  Metrics registry("generator");
  std::vector<RankProgress> ranks(2);
  RankMetrics metrics(registry, "demo", ranks);
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("qwenserve_gpu_memory")));
  ranks[1].step = 5;
  ranks[1].step_age = absl::Seconds(3);
  ranks[1].collective_time = absl::Milliseconds(250);
  metrics.Set(ranks);
  const std::string text = registry.Scrape();
  const std::string labels = "{model=\"demo\",rank=\"1\"}";
  EXPECT_THAT(text, HasSubstr("qwenserve_rank_step_age_seconds" + labels + " 3\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_rank_steps_total" + labels + " 5\n"));
  EXPECT_THAT(text, HasSubstr("qwenserve_collective_seconds_total" + labels + " 0.25\n"));

  Metrics other("generator");
  std::vector<RankProgress> one(1);
  one[0].device_total = 100;
  one[0].device_used = 60;
  RankMetrics gpu(other, "demo", one);
  EXPECT_THAT(other.Scrape(),
              HasSubstr("qwenserve_gpu_memory_used_bytes{model=\"demo\",rank=\"0\"} 60\n"));
  EXPECT_THAT(other.Scrape(),
              HasSubstr("qwenserve_gpu_memory_bytes{model=\"demo\",rank=\"0\"} 100\n"));
  EXPECT_THAT(other.Scrape(), Not(HasSubstr("collective")));
}

}  // namespace
}  // namespace qwenserve
