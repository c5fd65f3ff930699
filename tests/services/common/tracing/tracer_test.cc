#include "services/common/tracing/tracer.h"

#include <cstdlib>
#include <map>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"

namespace {

thread_local int64_t allocations = 0;

}  // namespace

// Counts; the sanitizers' own allocators are behind malloc.
void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  std::abort();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace qwenserve {
namespace {

using Wire = opentelemetry::proto::trace::v1::Span;

constexpr char kSampled[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
constexpr char kUnsampled[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

class Kept final : public SpanSink {
 public:
  void Add(Wire span) override { spans.push_back(std::move(span)); }
  std::vector<Wire> spans;
};

class TracerTest : public testing::Test {
 protected:
  Tracer Make(double ratio) {
    return Tracer(&sink_, ratio, [this] { return now_; });
  }
  Kept sink_;
  absl::Time now_ = absl::UnixEpoch() + absl::Seconds(1000);
};

TEST_F(TracerTest, ASpanOfTheCallersTrace) {
  const Tracer tracer = Make(0);
  Tracer::Request request = tracer.Begin("call", kSampled, now_ - absl::Seconds(1));
  ASSERT_TRUE(request.span.recording());
  EXPECT_EQ(TraceIdText(request.context), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(request.context.span, request.span.context().span);
  EXPECT_NE(request.context.span, 0xb7ad6b7169203331u);
  now_ += absl::Seconds(2);
  request.span.Event("half", "because", {{"count", 7}});
  request.span.SetText("text", "t");
  request.span.SetNumber("number", 42);
  request.span.SetTexts("texts", {"a", "b"});
  const absl::Time before = absl::Now();
  request.span.End(now_ + absl::Seconds(1));
  EXPECT_FALSE(request.span.recording());

  ASSERT_EQ(sink_.spans.size(), 1u);
  const Wire& wire = sink_.spans[0];
  EXPECT_EQ(wire.name(), "call");
  EXPECT_EQ(wire.kind(), Wire::SPAN_KIND_SERVER);
  EXPECT_EQ(absl::BytesToHexString(wire.trace_id()), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(absl::BytesToHexString(wire.parent_span_id()), "b7ad6b7169203331");
  EXPECT_EQ(wire.span_id().size(), 8u);
  EXPECT_EQ(wire.flags(), 0x301u);
  EXPECT_EQ(wire.end_time_unix_nano() - wire.start_time_unix_nano(), 4'000'000'000u);
  ASSERT_EQ(wire.events_size(), 1);
  EXPECT_EQ(wire.events(0).time_unix_nano() - wire.start_time_unix_nano(), 3'000'000'000u);
  EXPECT_EQ(wire.events(0).attributes(0).value().string_value(), "because");
  EXPECT_EQ(wire.events(0).attributes(1).value().int_value(), 7);
  ASSERT_EQ(wire.attributes_size(), 3);
  EXPECT_EQ(wire.attributes(0).value().string_value(), "t");
  EXPECT_EQ(wire.attributes(1).value().int_value(), 42);
  EXPECT_EQ(wire.attributes(2).value().array_value().values_size(), 2);
  // A date, whatever the clock counts from.
  const auto start = static_cast<int64_t>(wire.start_time_unix_nano());
  EXPECT_LT(start, absl::ToUnixNanos(before));
  EXPECT_GT(start, absl::ToUnixNanos(before - absl::Minutes(10)));
}

TEST_F(TracerTest, ChildrenAndHowTheyEnd) {
  const Tracer tracer = Make(1);
  {
    Tracer::Request request = tracer.Begin("call", "", now_);
    Span first = request.span.Child("first", Span::Kind::kClient);
    Span moved = std::move(first);
    EXPECT_FALSE(first.recording());
    now_ += absl::Seconds(1);
    request.span.Child("second", Span::Kind::kInternal, now_ - absl::Milliseconds(5)).End(now_);
    moved.Child("inner", Span::Kind::kInternal);  // ends at once
    // An end before the start, as of a clock that was wrong, is no negative time.
    request.span.Child("short", Span::Kind::kInternal).End(now_ - absl::Hours(1));
  }
  std::map<std::string, Wire> by_name;
  for (const Wire& wire : sink_.spans) by_name[wire.name()] = wire;
  ASSERT_EQ(sink_.spans.size(), 5u);
  const Wire& call = by_name["call"];
  EXPECT_EQ(call.parent_span_id(), "");
  EXPECT_EQ(call.flags(), 0x101u);
  for (const char* name : {"first", "second", "short"}) {
    EXPECT_EQ(by_name[name].parent_span_id(), call.span_id()) << name;
  }
  EXPECT_EQ(by_name["inner"].parent_span_id(), by_name["first"].span_id());
  EXPECT_EQ(by_name["first"].kind(), Wire::SPAN_KIND_CLIENT);
  EXPECT_EQ(by_name["short"].end_time_unix_nano(), by_name["short"].start_time_unix_nano());
  EXPECT_EQ(by_name["second"].end_time_unix_nano() - by_name["second"].start_time_unix_nano(),
            5'000'000u);
  for (const auto& [name, wire] : by_name) EXPECT_EQ(wire.trace_id(), call.trace_id()) << name;
}

TEST_F(TracerTest, WhoIsSampled) {
  for (double ratio : {0.0, 1.0}) {
    const Tracer tracer = Make(ratio);
    EXPECT_TRUE(tracer.Begin("call", kSampled, now_).span.recording());
    const Tracer::Request left_out = tracer.Begin("call", kUnsampled, now_);
    EXPECT_FALSE(left_out.span.recording());
    EXPECT_EQ(FormatTraceparent(left_out.context), kUnsampled);
    // Workers are told of a request without a trace too, lest they begin one.
    const Tracer::Request none = tracer.Begin("call", "nonsense", now_);
    EXPECT_EQ(none.span.recording(), ratio == 1.0);
    EXPECT_TRUE(none.context.valid());
    EXPECT_EQ(none.context.sampled, ratio == 1.0);
    EXPECT_FALSE(tracer.Begin("call", FormatTraceparent(none.context), now_).span.recording() !=
                 (ratio == 1.0));
  }
  const Tracer tracer = Make(0.25);
  int sampled = 0;
  for (int i = 0; i < 20000; ++i) sampled += tracer.Begin("call", "", now_).span.recording();
  // Ten standard deviations.
  EXPECT_NEAR(sampled, 5000, 620);
}

TEST_F(TracerTest, CodesAndReasonsButNoMessages) {
  const Tracer tracer = Make(1);
  const std::pair<absl::Status, bool> cases[] = {
      {absl::OkStatus(), false},
      {WithReason(absl::InvalidArgumentError("secret"), kReasonInvalidField), false},
      {absl::CancelledError("secret"), false},
      {WithReason(absl::UnavailableError("secret"), kReasonWorkerLost), true},
      {absl::InternalError("secret"), true},
      {absl::DeadlineExceededError("secret"), true}};
  for (const auto& [status, fault] : cases) {
    Span span = tracer.Begin("call", "", now_).span;
    span.SetStatus(status);
    span.End();
    const Wire& wire = sink_.spans.back();
    EXPECT_EQ(wire.status().code() == opentelemetry::proto::trace::v1::Status::STATUS_CODE_ERROR,
              fault);
    EXPECT_EQ(wire.attributes(0).value().string_value(), absl::StatusCodeToString(status.code()));
    EXPECT_EQ(wire.SerializeAsString().find("secret"), std::string::npos);
    if (ErrorReason(status).empty()) continue;
    EXPECT_EQ(wire.attributes(1).value().string_value(), ErrorReason(status));
  }
}

TEST_F(TracerTest, EventsAreBounded) {
  const Tracer tracer = Make(1);
  Span span = tracer.Begin("call", "", now_).span;
  for (int i = 0; i < 1000; ++i) span.Event("again");
  span.End();
  EXPECT_EQ(sink_.spans[0].events_size(), Span::kMaxEvents);
  EXPECT_EQ(sink_.spans[0].dropped_events_count(), 1000u - Span::kMaxEvents);
}

TEST_F(TracerTest, OffItAllocatesNothingAndAsksNoClock) {
  static_assert(sizeof(Span) == sizeof(void*));
  allocations = 0;
  int64_t before = allocations;
  std::string counted(1000, 'x');
  ASSERT_GT(allocations, before);  // it does count
  before = allocations;
  Span span;
  Span child = span.Child("child", Span::Kind::kClient);
  child.SetText("text", counted);
  child.SetNumber("number", 1);
  child.Event("event", "cause", {{"number", 1}});
  child.SetStatus(absl::OkStatus());
  child.End();
  span = std::move(child);
  EXPECT_FALSE(span.context().valid());
  EXPECT_EQ(allocations, before);
}

}  // namespace
}  // namespace qwenserve
