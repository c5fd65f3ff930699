#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_GENERATE_HANDLER_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_GENERATE_HANDLER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "services/gateway/admission/admission.h"
#include "services/gateway/call/generate_call.h"
#include "services/gateway/gateway.h"
#include "services/gateway/http/http_application.h"
#include "services/gateway/http/openai_response.h"
#include "services/gateway/http/parse_thread.h"
#include "services/gateway/http/sse_writer.h"

namespace qwenserve {

// A generation over HTTP, streamed or not: the transport of a GenerateCall. The head of a stream
// leaves when a replica has taken the request, so that a refusal still has its own status code; or
// with the first comment, when that takes longer than the quiet interval.
//
// Several prompts in one body are as many calls, each admitted, counted and logged for itself; they
// are answered together, and the first error ends them all.
//
// Wake and Drop come from any thread, the rest on the connection's.
class GenerateHandler final : public HttpHandler,
                              public CallSink,
                              public std::enable_shared_from_this<GenerateHandler> {
 public:
  // What a body asks for.
  struct Job {
    absl::StatusOr<std::vector<GenerateRequest>> requests;  // at least one, and all with the same n
    GatewayMetrics::Method method = GatewayMetrics::kHttpChat;
    bool stream = false;
    std::unique_ptr<OpenAiAnswer> answer = nullptr;
  };
  using Parse = std::function<Job(const std::string& body, const RequestLimits& limits)>;
  using Headers = std::vector<std::pair<std::string, std::string>>;

  // `headers` go with every answer. A refused request needs no answer in its job.
  GenerateHandler(Gateway* gateway, std::weak_ptr<HttpExchange> exchange, Headers headers);

  // Long bodies are parsed on `thread`.
  void Start(HttpRequest request, Parse parse, ParseThread* thread);

  void Wake() override;
  void Drop() override;

  void OnSent() override;
  void OnClientGone() override;
  void OnSlowClient() override;
  void OnQuiet() override;

 private:
  // One prompt.
  struct Part {
    std::shared_ptr<GenerateCall> call;  // null: over
    std::optional<v1::Finished> finished;
    // Of a whole answer that is being sent, until the connection lets go of this.
    Admission::Ticket memory;
  };

  void StartCalls(Job job, Caller caller, absl::Time deadline, size_t bytes);
  void Pump();
  void PumpStream(const std::shared_ptr<HttpExchange>& exchange);
  void PumpWhole(const std::shared_ptr<HttpExchange>& exchange);
  // Of the parts in turn; false when none has any.
  bool NextOutput(size_t* part, GenerateCall::Output* output);
  // Writes an output of a stream; false when it must be sent before the next one.
  bool WriteOutput(size_t part, GenerateCall::Output output,
                   const std::shared_ptr<HttpExchange>& exchange);
  void BeginAnswer(size_t part, v1::Started started);
  // The part is complete; true when all are.
  bool Complete(size_t part, v1::Finished finished);
  v1::Finished Together() const;
  void BeginStream(const std::shared_ptr<HttpExchange>& exchange);
  void SendBuffer(const std::shared_ptr<HttpExchange>& exchange, bool last);
  void RespondError(const absl::Status& status, const std::shared_ptr<HttpExchange>& exchange);
  // The error of a part as the client shall see it.
  absl::Status Shown(size_t part, const absl::Status& status) const;
  void End();

  Gateway& gateway_;
  const std::weak_ptr<HttpExchange> exchange_;
  const Headers headers_;
  const std::string id_;
  std::atomic<bool> wake_posted_{false};

  std::vector<Part> parts_;
  uint32_t choices_ = 1;   // of each part
  size_t unfinished_ = 0;  // parts
  size_t next_part_ = 0;   // whose turn it is
  size_t delta_part_ = 0;  // whose delta is being sent
  std::unique_ptr<OpenAiAnswer> answer_;
  bool answer_begun_ = false;
  bool stream_ = false;
  bool stream_begun_ = false;
  bool sending_ = false;
  bool delta_sent_ = false;  // what is being sent has a delta, to be reported as taken
  bool ended_ = false;
  SseWriter buffer_;
  Span span_;  // of a body with several prompts
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_GENERATE_HANDLER_H_
