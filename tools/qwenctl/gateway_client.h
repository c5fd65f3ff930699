#ifndef QWENSERVE_TOOLS_QWENCTL_GATEWAY_CLIENT_H_
#define QWENSERVE_TOOLS_QWENCTL_GATEWAY_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "qwenserve/v1/inference.grpc.pb.h"
#include "tools/qwenctl/connection.h"

namespace qwenserve {

// Flags of every command that talks to a gateway.
struct ClientOptions {
  ConnectionOptions connection;
  std::string model;  // empty: the only one that is served
  double timeout_seconds = 600;
  std::string output = "text";  // or json
  bool json() const { return output == "json"; }
};

// One of the n answers to a request.
struct AnswerChoice {
  std::string text;
  std::string reasoning;
  std::vector<uint32_t> token_ids;
  std::vector<v1::TokenLogprob> logprobs;  // one per token id, when asked for
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
};

// What comes back for one request, put together from a stream: the first answer, and the others.
struct Answer : AnswerChoice {
  std::vector<AnswerChoice> others;
  std::string request_id;
  uint64_t seed = 0;
  std::vector<v1::TokenLogprob> prompt_logprobs;  // from the second prompt token on
  v1::Usage usage;
  absl::Duration time_to_first_token = absl::InfiniteDuration();
  absl::Duration time_to_last_token;
  absl::Duration total_time;

  // The answer `index`, made if it is not there yet.
  AnswerChoice& choice(uint32_t index);
  // Of all answers together.
  size_t num_tokens() const;
  // Tokens after the first one per second; 0 when there are fewer than two, or all came nearly at
  // once, which tells how they were delivered and not how fast they were made.
  double TokensPerSecond() const;
  static constexpr absl::Duration kShortestMeasuredTime = absl::Milliseconds(50);
};

// A gateway, called synchronously. One call at a time, but Cancel may come from another thread.
// A request that names no model gets the one of the options.
class GatewayClient {
 public:
  // What a stream brings of the first answer, as it comes. May be null.
  using OnText = std::function<void(absl::string_view text, absl::string_view reasoning)>;

  // Errors of the files that the flags name. Connects with the first call.
  static absl::StatusOr<std::unique_ptr<GatewayClient>> Create(const ClientOptions& options);

  absl::StatusOr<Answer> Chat(v1::ChatRequest request, const OnText& on_text);
  absl::StatusOr<Answer> Complete(v1::CompleteRequest request, const OnText& on_text);
  absl::StatusOr<v1::TokenizeResponse> Tokenize(v1::TokenizeRequest request);
  absl::StatusOr<std::string> Detokenize(v1::DetokenizeTextRequest request);
  absl::StatusOr<v1::ListModelsResponse> ListModels();

  // SERVING or not, from grpc.health.v1; `service` is a model's name or empty.
  absl::StatusOr<bool> IsServing(const std::string& service);

  // `status`, which says that there is no such `model`, with those that there are.
  absl::Status ExplainModel(const absl::Status& status, const std::string& model,
                            const v1::ListModelsResponse& models) const;
  // Why a list of models is empty.
  std::string NoModels() const;

  // Ends the call that is under way, if there is one. From any thread.
  void Cancel();

 private:
  GatewayClient(const ClientOptions& options, Connection connection);
  // A context with the deadline and the key, known to Cancel() until the next call.
  std::shared_ptr<grpc::ClientContext> NewContext();
  // The error of a request for `model`; `begun`: part of the answer had come.
  absl::Status Explain(const grpc::Status& status, const std::string& model, bool begun = false);

  const ClientOptions options_;
  const Connection connection_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::shared_ptr<grpc::ClientContext> context_;  // through std::atomic_* only
};

// "stop", "length", "tool_calls".
std::string FinishReasonName(v1::FinishReason reason);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_GATEWAY_CLIENT_H_
