#include "services/tokenizer/tokenizer_service.h"

#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "engine/base/monotonic_time.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/logging.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

// A gateway needs one or a few.
constexpr size_t kMaxStreams = 1024;
constexpr size_t kMaxLoggedBytes = 128;

constexpr char kPrepareSpan[] = "qwenserve.v1.Tokenizer/Prepare";

// Cut and escaped: only a gateway that is none would send anything but hex.
void LogStart(const v1::PrepareRequest& request) {
  if (!spdlog::should_log(spdlog::level::debug)) return;
  const std::string id = absl::CEscape(request.request_id().substr(0, kMaxLoggedBytes));
  const std::string trace_id = TraceIdText(ParseTraceparent(request.traceparent()));
  const LogScope scope(id, trace_id);
  spdlog::debug("prepare {}, trace {}", id, trace_id.empty() ? "none" : trace_id);
}

absl::Status Draining() {
  return WithReason(absl::UnavailableError("this worker ends; use another"), kReasonDraining);
}

}  // namespace

// One Detokenize call: reads a message, answers it, reads the next. The messages belong to whoever
// runs the one open operation; the flags need the service's mutex, because Close may come at any
// time.
class TokenizerService::DetokenizeStream
    : public grpc::ServerBidiReactor<v1::DetokenizeRequest, v1::DetokenizeResponse> {
 public:
  explicit DetokenizeStream(TokenizerService* service) : service_(service) {}

  void Begin() { StartRead(&request_); }

  // Idle streams end now, others after their message.
  void Close() ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_->mutex_) {
    closing_ = true;
    if (!busy_) FinishOnce(Draining());
  }

  void OnReadDone(bool ok) override {
    {
      absl::MutexLock lock(&service_->mutex_);
      if (!ok) return FinishOnce(absl::OkStatus());
      if (finished_) return;
      busy_ = true;
      ++service_->in_flight_;
    }
    response_.Clear();
    const absl::Status status = service_->worker_.Detokenize(request_, &response_);
    Count();
    if (!status.ok()) return EndMessage(status);
    StartWrite(&response_);
  }

  void OnWriteDone(bool ok) override {
    EndMessage(ok ? absl::OkStatus() : absl::CancelledError("the gateway left"));
  }

  void OnDone() override {
    {
      absl::MutexLock lock(&service_->mutex_);
      service_->streams_.erase(this);
      service_->metrics_.detokenize_streams.Set(static_cast<double>(service_->streams_.size()));
    }
    delete this;
  }

  void FinishOnce(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_->mutex_) {
    if (std::exchange(finished_, true)) return;
    Finish(ToGrpcStatus(status));
  }

 private:
  void EndMessage(const absl::Status& status) {
    absl::MutexLock lock(&service_->mutex_);
    busy_ = false;
    --service_->in_flight_;
    if (!status.ok()) return FinishOnce(status);
    if (closing_) return FinishOnce(Draining());
    StartRead(&request_);
  }

  void Count() {
    int64_t tokens = 0;
    for (const v1::DetokenizeItem& item : request_.items()) tokens += item.ids_size();
    int64_t errors = 0;
    for (const v1::DetokenizeResult& result : response_.results()) errors += result.has_error();
    service_->metrics_.detokenize_steps.Increment();
    service_->metrics_.detokenize_tokens.Increment(static_cast<double>(tokens));
    service_->metrics_.detokenize_item_errors.Increment(static_cast<double>(errors));
  }

  TokenizerService* const service_;
  v1::DetokenizeRequest request_;
  v1::DetokenizeResponse response_;
  bool busy_ = false;
  bool closing_ = false;
  bool finished_ = false;
};

TokenizerService::TokenizerService(const TokenizerWorker& worker, TokenizerMetrics& metrics,
                                   int num_threads, size_t max_waiting, const Tracer* tracer)
    : worker_(worker), metrics_(metrics), tracer_(tracer), queue_(num_threads, max_waiting) {}

void TokenizerService::CloseStreams() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  for (DetokenizeStream* stream : streams_) stream->Close();
}

grpc::ServerUnaryReactor* TokenizerService::Describe(grpc::CallbackServerContext* context,
                                                     const v1::DescribeRequest*,
                                                     v1::DescribeResponse* response) {
  *response = worker_.Describe();
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

std::shared_ptr<Span> TokenizerService::BeginSpan(const v1::PrepareRequest& request) const {
  if (tracer_ == nullptr) return nullptr;
  Span span = tracer_->Begin(kPrepareSpan, request.traceparent(), MonotonicNow()).span;
  if (!span.recording()) return nullptr;
  span.SetText("rpc.system", "grpc");
  span.SetText("rpc.service", "qwenserve.v1.Tokenizer");
  span.SetText("rpc.method", "Prepare");
  if (request.request_id().size() <= kMaxLoggedBytes) {
    span.SetText("qwenserve.request_id", request.request_id());
  }
  return std::make_shared<Span>(std::move(span));
}

grpc::ServerUnaryReactor* TokenizerService::Prepare(grpc::CallbackServerContext* context,
                                                    const v1::PrepareRequest* request,
                                                    v1::PrepareResponse* response) {
  auto* reactor = context->DefaultReactor();
  ++in_flight_;
  const std::shared_ptr<Span> span = BeginSpan(*request);
  const auto finish = [this, reactor, span](const absl::Status& status) {
    if (span != nullptr) {
      span->SetStatus(status);
      span->End();
    }
    metrics_.prepare_requests.Increment(status.code());
    reactor->Finish(ToGrpcStatus(status));
    --in_flight_;
  };
  const bool queued = queue_.TryAdd([=, this] {
    if (context->IsCancelled()) return finish(absl::CancelledError("the gateway gave up"));
    if (span != nullptr) span->Event("started");
    LogStart(*request);
    const absl::Time start = MonotonicNow();
    absl::StatusOr<v1::PrepareResponse> prepared = worker_.Prepare(*request);
    metrics_.prepare_duration.Observe(absl::ToDoubleSeconds(MonotonicNow() - start));
    if (prepared.ok()) {
      metrics_.prompt_tokens.Increment(prepared->prompt_ids_size());
      if (span != nullptr) {
        span->SetNumber("gen_ai.usage.input_tokens", prepared->prompt_ids_size());
      }
      *response = *std::move(prepared);
    }
    finish(prepared.status());
  });
  if (!queued) {
    finish(WithRetryAfter(
        WithReason(absl::ResourceExhaustedError("too many prompts are waiting"), kReasonQueueFull),
        absl::Seconds(1)));
  }
  return reactor;
}

grpc::ServerBidiReactor<v1::DetokenizeRequest, v1::DetokenizeResponse>*
TokenizerService::Detokenize(grpc::CallbackServerContext*) {
  auto* stream = new DetokenizeStream(this);
  absl::MutexLock lock(&mutex_);
  if (closed_) {
    stream->FinishOnce(Draining());
  } else if (streams_.size() >= kMaxStreams) {
    stream->FinishOnce(
        WithReason(absl::ResourceExhaustedError("too many detokenize streams"), kReasonQueueFull));
  } else {
    streams_.insert(stream);
    metrics_.detokenize_streams.Set(static_cast<double>(streams_.size()));
    stream->Begin();
  }
  return stream;
}

}  // namespace qwenserve
