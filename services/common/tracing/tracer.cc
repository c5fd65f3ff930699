#include "services/common/tracing/tracer.h"

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "absl/time/clock.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

namespace otlp = opentelemetry::proto::trace::v1;

constexpr uint64_t kAllSampled = uint64_t{1} << 63;

// Sampled; and whether the parent is of another process is known.
constexpr uint32_t kSampledFlags = otlp::SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | 1;

uint64_t DrawTraceBits() {
  thread_local absl::BitGen random;
  return absl::Uniform<uint64_t>(random, 1, ~uint64_t{0});
}

std::string BigEndian(uint64_t value) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (56 - 8 * i));
  return bytes;
}

otlp::Span::SpanKind WireKind(Span::Kind kind) {
  switch (kind) {
    case Span::Kind::kServer:
      return otlp::Span::SPAN_KIND_SERVER;
    case Span::Kind::kClient:
      return otlp::Span::SPAN_KIND_CLIENT;
    case Span::Kind::kInternal:
      break;
  }
  return otlp::Span::SPAN_KIND_INTERNAL;
}

// As OpenTelemetry's conventions for gRPC servers have it.
bool IsServerFault(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace

struct Span::Data {
  const Tracer* tracer = nullptr;
  TraceContext context;
  absl::Duration to_date;  // from the tracer's clock
  otlp::Span wire;

  uint64_t Date(absl::Time at) const {
    return static_cast<uint64_t>(std::max<int64_t>(0, absl::ToUnixNanos(at + to_date)));
  }

  void Begin(const char* name, Kind kind, const TraceContext& parent, absl::Time start) {
    context = parent;
    context.span = DrawTraceBits();
    context.sampled = true;
    wire.set_trace_id(BigEndian(context.trace_high) + BigEndian(context.trace_low));
    wire.set_span_id(BigEndian(context.span));
    if (parent.span != 0) wire.set_parent_span_id(BigEndian(parent.span));
    wire.set_name(name);
    wire.set_kind(WireKind(kind));
    wire.set_start_time_unix_nano(Date(start));
    wire.set_flags(kSampledFlags);
  }

  void End(absl::Time at) {
    wire.set_end_time_unix_nano(std::max(Date(at), wire.start_time_unix_nano()));
    tracer->sink_->Add(std::move(wire));
  }
};

Tracer::Tracer(SpanSink* sink, double sample_ratio, Clock clock)
    : sink_(sink),
      sampled_below_(sample_ratio >= 1
                         ? kAllSampled
                         : static_cast<uint64_t>(static_cast<double>(kAllSampled) * sample_ratio)),
      clock_(std::move(clock)) {}

bool Tracer::Sample(const TraceContext& context) const {
  return (context.trace_low >> 1) < sampled_below_;
}

Tracer::Request Tracer::Begin(const char* name, absl::string_view traceparent,
                              absl::Time start) const {
  Request request;
  request.context = ParseTraceparent(traceparent);
  if (!request.context.valid()) {
    request.context.trace_high = DrawTraceBits();
    request.context.trace_low = DrawTraceBits();
    request.context.sampled = Sample(request.context);
    // Of a span that is not recorded; workers need one to know that they are not to record either.
    if (!request.context.sampled) request.context.span = DrawTraceBits();
  }
  if (!request.context.sampled) return request;
  request.span.data_.reset(new Span::Data);
  Span::Data& data = *request.span.data_;
  data.tracer = this;
  data.to_date = absl::Now() - clock_();
  data.Begin(name, Span::Kind::kServer, request.context, start);
  if (request.context.span != 0) {
    data.wire.set_flags(kSampledFlags | otlp::SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK);
  }
  request.context = data.context;
  return request;
}

void Span::Ender::operator()(Data* data) const {
  data->End(data->tracer->clock_());
  delete data;
}

Span Span::MakeChild(const char* name, Kind kind, absl::Time start) const {
  Span child;
  child.data_.reset(new Data);
  child.data_->tracer = data_->tracer;
  child.data_->to_date = data_->to_date;
  child.data_->Begin(name, kind, data_->context, start);
  return child;
}

void Span::AddText(const char* key, absl::string_view value) {
  auto* attribute = data_->wire.add_attributes();
  attribute->set_key(key);
  attribute->mutable_value()->set_string_value(value.data(), value.size());
}

void Span::AddNumber(const char* key, int64_t value) {
  auto* attribute = data_->wire.add_attributes();
  attribute->set_key(key);
  attribute->mutable_value()->set_int_value(value);
}

void Span::AddTexts(const char* key, const std::vector<std::string>& values) {
  auto* attribute = data_->wire.add_attributes();
  attribute->set_key(key);
  auto* array = attribute->mutable_value()->mutable_array_value();
  for (const std::string& value : values) array->add_values()->set_string_value(value);
}

void Span::AddEvent(const char* name, absl::string_view cause,
                    std::initializer_list<Number> numbers) {
  if (data_->wire.events_size() >= kMaxEvents) {
    data_->wire.set_dropped_events_count(data_->wire.dropped_events_count() + 1);
    return;
  }
  auto* event = data_->wire.add_events();
  event->set_name(name);
  event->set_time_unix_nano(data_->Date(Now()));
  if (!cause.empty()) {
    auto* attribute = event->add_attributes();
    attribute->set_key("cause");
    attribute->mutable_value()->set_string_value(cause.data(), cause.size());
  }
  for (const auto& [key, number] : numbers) {
    auto* attribute = event->add_attributes();
    attribute->set_key(key);
    attribute->mutable_value()->set_int_value(number);
  }
}

void Span::AddStatus(const absl::Status& status) {
  AddText("qwenserve.code", absl::StatusCodeToString(status.code()));
  if (status.ok()) return;
  const std::string reason = ErrorReason(status);
  AddText("error.type", reason.empty() ? absl::StatusCodeToString(status.code()) : reason);
  if (!IsServerFault(status.code())) return;
  data_->wire.mutable_status()->set_code(otlp::Status::STATUS_CODE_ERROR);
}

void Span::EndAt(absl::Time at) {
  std::unique_ptr<Data> data(data_.release());
  data->End(at);
}

absl::Time Span::Now() const { return data_->tracer->clock_(); }

TraceContext Span::ContextOf() const { return data_->context; }

}  // namespace qwenserve
