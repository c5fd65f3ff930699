#include "services/gateway/call/call_trace.h"

#include <iterator>

namespace qwenserve {
namespace {

constexpr char kService[] = "qwenserve.v1.Inference";

// What a client calls. In the order of GatewayMetrics::Method.
struct Entry {
  const char* name;
  const char* method;     // gRPC's or HTTP's
  const char* operation;  // of generative AI; null: none
};
constexpr Entry kEntries[] = {
    {"qwenserve.v1.Inference/Chat", "Chat", "chat"},
    {"qwenserve.v1.Inference/StreamChat", "StreamChat", "chat"},
    {"qwenserve.v1.Inference/Complete", "Complete", "text_completion"},
    {"qwenserve.v1.Inference/StreamComplete", "StreamComplete", "text_completion"},
    {"qwenserve.v1.Inference/Tokenize", "Tokenize", nullptr},
    {"qwenserve.v1.Inference/Detokenize", "Detokenize", nullptr},
    {"qwenserve.v1.Inference/ListModels", "ListModels", nullptr},
    {"qwenserve.v1.Inference/GetModel", "GetModel", nullptr},
    {"POST /v1/chat/completions", "POST", "chat"},
    {"POST /v1/chat/completions", "POST", "chat"},
    {"POST /v1/completions", "POST", "text_completion"},
    {"POST /v1/completions", "POST", "text_completion"},
    {"POST /tokenize", "POST", nullptr},
    {"POST /detokenize", "POST", nullptr},
    {"GET /v1/models", "GET", nullptr},
    {"GET /v1/models/{model}", "GET", nullptr},
};
static_assert(std::size(kEntries) == GatewayMetrics::kNumMethods);

bool IsHttp(GatewayMetrics::Method method) { return method >= GatewayMetrics::kHttpChat; }

const char* FinishText(v1::SequenceFinishReason reason) {
  switch (reason) {
    case v1::SEQUENCE_FINISH_REASON_EOS:
    case v1::SEQUENCE_FINISH_REASON_STOP_TOKEN:
      return "stop";
    case v1::SEQUENCE_FINISH_REASON_LENGTH:
      return "length";
    case v1::SEQUENCE_FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "error";
  }
}

}  // namespace

Span BeginCallSpan(const Tracer* tracer, GatewayMetrics::Method method, absl::Time start,
                   Caller* caller) {
  if (tracer == nullptr) return Span();
  const Entry& entry = kEntries[method];
  Tracer::Request request = tracer->Begin(entry.name, caller->traceparent, start);
  caller->traceparent = FormatTraceparent(request.context);
  Span& span = request.span;
  if (IsHttp(method)) {
    span.SetText("http.request.method", entry.method);
    span.SetText("http.route", entry.name + std::string(entry.method).size() + 1);
  } else {
    span.SetText("rpc.system", "grpc");
    span.SetText("rpc.service", kService);
    span.SetText("rpc.method", entry.method);
  }
  if (entry.operation != nullptr) span.SetText("gen_ai.operation.name", entry.operation);
  return std::move(request.span);
}

void EndCallSpan(const AccessRecord& record, const Caller& caller, Span* span) {
  if (!span->recording()) return;
  span->SetText("qwenserve.request_id", record.id);
  if (!caller.tenant().empty()) span->SetText("qwenserve.tenant", caller.tenant());
  if (!record.model.empty()) span->SetText("gen_ai.request.model", record.model);
  span->SetNumber("gen_ai.usage.input_tokens", record.prompt_tokens);
  span->SetNumber("gen_ai.usage.output_tokens", record.completion_tokens);
  span->SetNumber("qwenserve.cached_tokens", record.cached_tokens);
  span->SetNumber("qwenserve.replicas", record.replicas);
  span->SetNumber("qwenserve.failovers", record.failovers);
  span->SetNumber("rpc.grpc.status_code", static_cast<int64_t>(record.status.code()));
  span->SetStatus(record.status);
  span->End();
}

Span BeginPrepareSpan(const Span& call, v1::PrepareRequest* request) {
  Span span = call.Child("qwenserve.v1.Tokenizer/Prepare", Span::Kind::kClient);
  if (!span.recording()) return span;
  span.SetText("rpc.system", "grpc");
  span.SetText("rpc.service", "qwenserve.v1.Tokenizer");
  span.SetText("rpc.method", "Prepare");
  request->set_traceparent(FormatTraceparent(span.context()));
  return span;
}

void EndPrepareSpan(const absl::Status& status, int64_t prompt_tokens, Span* span) {
  if (!span->recording()) return;
  if (status.ok()) span->SetNumber("gen_ai.usage.input_tokens", prompt_tokens);
  span->SetStatus(status);
  span->End();
}

void AttemptSpan::Begin(const Span& call, const std::string& replica, v1::Submit* submit) {
  span_ = call.Child("attempt", Span::Kind::kClient);
  if (!span_.recording()) return;
  resumed_ids_ = static_cast<size_t>(submit->resumed_ids_size());
  span_.SetText("qwenserve.replica", replica);
  span_.SetNumber("qwenserve.sample", submit->sample_index());
  span_.SetNumber("qwenserve.attempt", submit->attempt());
  span_.SetNumber("qwenserve.resumed_tokens", submit->resumed_ids_size());
  submit->set_traceparent(FormatTraceparent(span_.context()));
}

void AttemptSpan::SetFinish(v1::SequenceFinishReason reason) {
  span_.SetText("qwenserve.finish", FinishText(reason));
}

void AttemptSpan::End(size_t ids) {
  if (!span_.recording()) return;
  span_.SetNumber("gen_ai.usage.output_tokens", static_cast<int64_t>(ids - resumed_ids_));
  span_.End();
}

void AttemptSpan::Lose(LossCause cause, size_t ids) {
  if (!span_.recording()) return;
  span_.SetText("qwenserve.lost", LossCauseName(cause));
  // A drain is in order, a refusal is load.
  if (cause != LossCause::kDraining && cause != LossCause::kRefused) {
    span_.SetStatus(absl::UnavailableError(""));
  }
  End(ids);
}

}  // namespace qwenserve
