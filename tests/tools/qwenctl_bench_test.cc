#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tools/qwenctl/bench/bench_options.h"
#include "tools/qwenctl/bench/bench_plan.h"
#include "tools/qwenctl/bench/bench_recorder.h"
#include "tools/qwenctl/bench/bench_report.h"
#include "tools/qwenctl/bench/latency_histogram.h"
#include "tools/qwenctl/bench/sse_reader.h"

namespace qwenserve {
namespace {

BenchPlan MakePlan(const BenchOptions& options, uint32_t vocab_size = 1000) {
  auto plan = BenchPlan::Create(options, vocab_size);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

TEST(LengthSpec, RefusesWhatIsNoLength) {
  for (const char* text : {"", "0", "-1", "x", "5:", "9:5", "1:2:3", "lognormal", "lognormal:5",
                           "lognormal:5:-1", "lognormal:5:9", "1048577"}) {
    EXPECT_FALSE(LengthSpec::Parse(text).ok()) << text;
  }
}

TEST(LengthSpec, DrawsWithinItsRangeAndReachesBothEnds) {
  std::mt19937_64 random(1);
  std::set<uint32_t> seen;
  const LengthSpec spec = *LengthSpec::Parse("3:6");
  for (int i = 0; i < 1000; ++i) seen.insert(spec.Draw(random));
  EXPECT_EQ(seen, (std::set<uint32_t>{3, 4, 5, 6}));
  EXPECT_EQ(LengthSpec::Parse("128")->Draw(random), 128u);
}

TEST(LengthSpec, LognormalHasItsMedian) {
  std::mt19937_64 random(1);
  const LengthSpec spec = *LengthSpec::Parse("lognormal:200:1");
  int below = 0;
  uint32_t longest = 0;
  for (int i = 0; i < 10000; ++i) {
    const uint32_t length = spec.Draw(random);
    below += length < 200;
    longest = std::max(longest, length);
  }
  EXPECT_NEAR(below, 5000, 200);
  EXPECT_GT(longest, 2000u);
  EXPECT_LE(longest, 200u * 64);
}

TEST(BenchPlan, IsTheSameForTheSameSeed) {
  BenchOptions options;
  options.prompt_tokens = "10:50";
  options.rate = 10;
  BenchPlan a = MakePlan(options), b = MakePlan(options);
  options.seed = 1;
  BenchPlan other = MakePlan(options);
  bool differs = false;
  for (int i = 0; i < 20; ++i) {
    const PlannedRequest x = a.Next(), y = b.Next(), z = other.Next();
    EXPECT_EQ(x.prompt_ids, y.prompt_ids);
    EXPECT_EQ(x.start, y.start);
    differs = differs || x.prompt_ids != z.prompt_ids;
    for (uint32_t id : x.prompt_ids) EXPECT_LT(id, 900u);  // the end has control tokens
  }
  EXPECT_TRUE(differs);
}

TEST(BenchPlan, PoissonHasItsRateAndItsSpread) {
  BenchOptions options;
  options.rate = 100;
  options.prompt_tokens = "1";
  BenchPlan plan = MakePlan(options);
  std::vector<double> gaps;
  absl::Duration last;
  for (int i = 0; i < 10000; ++i) {
    const absl::Duration start = plan.Next().start;
    gaps.push_back(absl::ToDoubleSeconds(start - last));
    last = start;
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(last), 100, 3);
  double squares = 0;
  for (double gap : gaps) squares += (gap - 0.01) * (gap - 0.01);
  // Of an exponential the deviation is the mean.
  EXPECT_NEAR(std::sqrt(squares / 10000), 0.01, 0.0005);
}

TEST(BenchPlan, GroupsShareTheirBeginningAndNoMore) {
  BenchOptions options;
  options.prompt_tokens = "40";
  options.prefix_tokens = 32;
  options.prefix_groups = 3;
  BenchPlan plan = MakePlan(options);
  std::set<std::vector<uint32_t>> beginnings, prompts;
  for (int i = 0; i < 100; ++i) {
    const std::vector<uint32_t> ids = plan.Next().prompt_ids;
    ASSERT_EQ(ids.size(), 40u);
    beginnings.insert({ids.begin(), ids.begin() + 32});
    prompts.insert(ids);
  }
  EXPECT_EQ(beginnings.size(), 3u);
  EXPECT_EQ(prompts.size(), 100u);
}

TEST(BenchPlan, WritesWordsWhereTheVocabularyIsNotKnown) {
  BenchOptions options;
  options.prompt_tokens = "5";
  const std::string text = MakePlan(options, 0).Next().prompt_text;
  EXPECT_EQ(std::count(text.begin(), text.end(), ' '), 5);
}

TEST(LatencyHistogram, PercentilesAreWithinTheirBucket) {
  LatencyHistogram histogram;
  for (int i = 1; i <= 10000; ++i) histogram.Record(absl::Microseconds(i));
  for (double fraction : {0.01, 0.5, 0.9, 0.99}) {
    const double exact = 10000 * fraction;
    const double got = absl::ToDoubleMicroseconds(histogram.Percentile(fraction));
    EXPECT_GE(got, exact);
    EXPECT_LE(got, exact * 1.016);
  }
  EXPECT_EQ(histogram.max(), absl::Milliseconds(10));
  EXPECT_EQ(histogram.Percentile(1), absl::Milliseconds(10));
  EXPECT_EQ(histogram.count(), 10000u);
  EXPECT_NEAR(absl::ToDoubleMicroseconds(histogram.mean()), 5000.5, 1);
}

TEST(LatencyHistogram, TakesWhatIsLateOrAbsurd) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.Percentile(0.5), absl::ZeroDuration());
  histogram.Record(absl::Seconds(-1));
  EXPECT_EQ(histogram.max(), absl::ZeroDuration());
  histogram.Record(absl::Hours(1000000));
  EXPECT_EQ(histogram.Percentile(1), absl::Hours(1000000));
}

TEST(BenchRecorder, CountsFromTheIntendedTime) {
  BenchRecorder recorder(*GoodputLimits::Parse("ttft:100ms,itl:10ms"));
  const absl::Time intended = absl::UnixEpoch();
  const absl::Time sent = intended + absl::Milliseconds(90);  // the client was late
  BenchRecorder::Call call(&recorder, intended, sent);
  call.OnPrompt(7);
  call.OnTokens(1, sent + absl::Milliseconds(20));
  call.OnTokens(2, sent + absl::Milliseconds(40));
  call.OnDone("", sent + absl::Milliseconds(50));
  EXPECT_EQ(recorder.ttft.max(), absl::Milliseconds(110));
  EXPECT_EQ(recorder.inter_token.max(), absl::Milliseconds(20));
  EXPECT_EQ(recorder.end_to_end.max(), absl::Milliseconds(140));
  EXPECT_EQ(recorder.send_delay.max(), absl::Milliseconds(90));
  EXPECT_EQ(recorder.tokens(), 3u);
  EXPECT_EQ(recorder.messages(), 2u);
  EXPECT_EQ(recorder.prompt_tokens(), 7u);
  EXPECT_EQ(recorder.succeeded(), 1u);
  EXPECT_EQ(recorder.good(), 0u);  // the first token was late
}

TEST(BenchRecorder, GoodIsWithinAllLimitsAndAnErrorNever) {
  BenchRecorder recorder(*GoodputLimits::Parse("ttft:100ms,itl:10ms,e2e:1s"));
  const absl::Time t = absl::UnixEpoch();
  const auto run = [&](int first, int last, int end, const std::string& error) {
    BenchRecorder::Call call(&recorder, t, t);
    call.OnTokens(1, t + absl::Milliseconds(first));
    call.OnTokens(1, t + absl::Milliseconds(last));
    call.OnDone(error, t + absl::Milliseconds(end));
  };
  run(100, 110, 1000, "");
  EXPECT_EQ(recorder.good(), 1u);
  run(101, 102, 200, "");
  run(10, 21, 30, "");
  run(10, 20, 1001, "");
  run(10, 20, 30, "UNAVAILABLE");
  EXPECT_EQ(recorder.good(), 1u);
  EXPECT_EQ(recorder.errors(), (std::map<std::string, uint64_t>{{"UNAVAILABLE", 1}}));
  BenchOptions options;
  options.min_goodput = 0.2;
  EXPECT_TRUE(BenchReport(options, recorder, absl::Seconds(1), {}).limits_kept());
  options.min_goodput = 0.21;
  EXPECT_FALSE(BenchReport(options, recorder, absl::Seconds(1), {}).limits_kept());
}

TEST(BenchReport, DoubtsABusyClient) {
  BenchRecorder recorder({});
  BenchOptions options;
  EXPECT_EQ(BenchReport(options, recorder, absl::Seconds(1), absl::ZeroDuration()).Doubt(), "");
  EXPECT_NE(BenchReport(options, recorder, absl::Seconds(1), absl::Hours(1)).Doubt(), "");
}

TEST(GoodputLimits, RefusesWhatIsNoLimit) {
  for (const char* text : {"ttft", "ttft:", "ttft:5", "ttft:-1s", "tpot:1s", "ttft:1s,"}) {
    EXPECT_FALSE(GoodputLimits::Parse(text).ok()) << text;
  }
  EXPECT_FALSE(GoodputLimits::Parse("")->any());
}

TEST(SseReader, CutsEventsWhereverTheBytesDo) {
  const std::string body = ": wait\n\ndata: {\"a\":1}\r\n\r\ndata: [DONE]\n\n";
  for (size_t size = 1; size <= body.size(); ++size) {
    SseReader reader;
    std::vector<std::string> events;
    for (size_t i = 0; i < body.size(); i += size) {
      reader.Push(absl::string_view(body).substr(i, size),
                  [&](absl::string_view data) { events.emplace_back(data); });
    }
    EXPECT_EQ(events, (std::vector<std::string>{"{\"a\":1}", "[DONE]"})) << size;
  }
}

TEST(SseReader, TellsTokensFromTheRest) {
  EXPECT_TRUE(ReadSseChunk(R"({"choices":[{"delta":{"content":"x"}}]})").has_text);
  EXPECT_TRUE(ReadSseChunk(R"({"choices":[{"text":"x"}]})").has_text);
  EXPECT_FALSE(ReadSseChunk(R"({"choices":[{"delta":{"content":""}}],"usage":null})").has_text);
  const SseChunk usage =
      ReadSseChunk(R"({"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}})");
  EXPECT_EQ(usage.prompt_tokens, 3u);
  EXPECT_EQ(usage.completion_tokens, 4u);
  EXPECT_EQ(ReadSseChunk(R"({"error":{"type":"server_error"}})").error, "server_error");
  EXPECT_EQ(ReadSseChunk("{").error, "malformed");
  EXPECT_TRUE(ReadSseChunk("[DONE]").done);
}

}  // namespace
}  // namespace qwenserve
