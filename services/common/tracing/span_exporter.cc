#include "services/common/tracing/span_exporter.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "absl/random/random.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/channel_arguments.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

namespace collector = opentelemetry::proto::collector::trace::v1;

// By the specification of OTLP. RESOURCE_EXHAUSTED says that the collector is busy, with or without
// a hint when it will not be: the tries are few and far enough apart.
bool MayTryAgain(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::OUT_OF_RANGE:
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DATA_LOSS:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return true;
    default:
      return false;
  }
}

// Without pings: a collector's server may take them for an attack. Each try has a timeout, after
// which there is a new channel, and with a pool of subchannels of its own a new connection.
std::shared_ptr<grpc::Channel> MakeCollectorChannel(
    const std::string& endpoint, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 10000);
  return grpc::CreateCustomChannel(endpoint, credentials, arguments);
}

}  // namespace

SpanExporter::SpanExporter(const std::string& endpoint,
                           std::shared_ptr<grpc::ChannelCredentials> credentials,
                           const Resource& resource, const Settings& settings, Metrics& metrics)
    : endpoint_(endpoint),
      credentials_(credentials == nullptr ? grpc::InsecureChannelCredentials()
                                          : std::move(credentials)),
      settings_(settings),
      metrics_(metrics) {
  auto* spans = empty_batch_.add_resource_spans();
  for (const auto& [key, value] : resource) {
    auto* attribute = spans->mutable_resource()->add_attributes();
    attribute->set_key(key);
    attribute->mutable_value()->set_string_value(value);
  }
  spans->add_scope_spans()->mutable_scope()->set_name("qwenserve");
  Reconnect();
  thread_ = std::thread([this] { Run(); });
}

void SpanExporter::Reconnect() {
  stub_ = collector::TraceService::NewStub(MakeCollectorChannel(endpoint_, credentials_));
}

SpanExporter::~SpanExporter() { Shutdown(absl::ZeroDuration()); }

void SpanExporter::Add(opentelemetry::proto::trace::v1::Span span) {
  bool full_batch = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (done_) {
      metrics_.dropped_not_sent.Increment();
      return;
    }
    if (queue_.size() >= settings_.max_queued) {
      metrics_.dropped_queue_full.Increment();
      return;
    }
    queue_.push_back(std::move(span));
    full_batch = queue_.size() == settings_.max_batch;
  }
  if (full_batch) changed_.notify_all();
}

bool SpanExporter::Take(Batch* batch) {
  *batch = empty_batch_;
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoNanoseconds(settings_.interval),
                    [this] { return ending_ || queue_.size() >= settings_.max_batch; });
  if (ended_ || (ending_ && queue_.empty())) return false;
  const auto end =
      queue_.begin() + static_cast<ptrdiff_t>(std::min(queue_.size(), settings_.max_batch));
  auto* spans = batch->mutable_resource_spans(0)->mutable_scope_spans(0)->mutable_spans();
  for (auto span = queue_.begin(); span != end; ++span) *spans->Add() = std::move(*span);
  queue_.erase(queue_.begin(), end);
  return true;
}

void SpanExporter::Run() {
  Batch batch;
  while (Take(&batch)) {
    const int64_t spans = batch.resource_spans(0).scope_spans(0).spans_size();
    if (spans > 0) Send(batch, spans);
  }
  size_t left = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    done_ = true;
    left = queue_.size();
    queue_.clear();
  }
  metrics_.dropped_not_sent.Increment(static_cast<double>(left));
  changed_.notify_all();
}

void SpanExporter::Send(const Batch& batch, int64_t spans) {
  thread_local absl::BitGen random;
  absl::Duration backoff = settings_.first_backoff;
  for (int tries = 1;; ++tries) {
    const Outcome outcome = Try(batch, spans);
    if (outcome == Outcome::kSent) return;
    if (outcome == Outcome::kRefused || tries >= settings_.max_tries) break;
    if (!WaitFor(backoff * absl::Uniform(random, 0.8, 1.2))) break;
    backoff = std::min(2 * backoff, settings_.longest_backoff);
  }
  metrics_.dropped_not_sent.Increment(static_cast<double>(spans));
}

SpanExporter::Outcome SpanExporter::Try(const Batch& batch, int64_t spans) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       absl::ToChronoMicroseconds(settings_.timeout));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return Outcome::kRefused;
    trying_ = &context;
  }
  collector::ExportTraceServiceResponse response;
  const grpc::Status status = stub_->Export(&context, batch, &response);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    trying_ = nullptr;
  }
  if (status.ok()) {
    const int64_t rejected =
        std::clamp<int64_t>(response.partial_success().rejected_spans(), 0, spans);
    metrics_.rejected.Increment(static_cast<double>(rejected));
    metrics_.sent.Increment(static_cast<double>(spans - rejected));
    return Outcome::kSent;
  }
  if (failures_.Count(MonotonicNow())) {
    spdlog::warn("spans cannot be sent: {}", status.error_message());
  }
  // A machine that has vanished does not say so, and TCP believes in it for a quarter of an hour.
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) Reconnect();
  return MayTryAgain(status.error_code()) ? Outcome::kTryAgain : Outcome::kRefused;
}

bool SpanExporter::WaitFor(absl::Duration backoff) {
  std::unique_lock<std::mutex> lock(mutex_);
  return !changed_.wait_for(lock, absl::ToChronoNanoseconds(backoff), [this] { return ending_; });
}

void SpanExporter::Shutdown(absl::Duration limit) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    ending_ = true;
    if (limit <= absl::ZeroDuration()) ended_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, absl::ToChronoNanoseconds(limit), [this] { return done_; });
    ended_ = true;
    if (trying_ != nullptr) trying_->TryCancel();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace qwenserve
