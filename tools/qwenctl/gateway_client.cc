#include "tools/qwenctl/gateway_client.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

// Reads a stream of Started, deltas and Finished into an Answer; whether anything came.
template <typename Event, typename Reader>
bool ReadAnswer(Reader& reader, absl::Time start, const GatewayClient::OnText& on_text,
                Answer* answer) {
  Event event;
  bool begun = false;
  while (reader.Read(&event)) {
    begun = true;
    if (event.has_started()) {
      answer->request_id = event.started().request_id();
      answer->seed = event.started().seed();
    } else if (event.has_delta()) {
      const auto& delta = event.delta();
      if (answer->time_to_first_token == absl::InfiniteDuration()) {
        answer->time_to_first_token = absl::Now() - start;
      }
      answer->time_to_last_token = absl::Now() - start;
      AnswerChoice& choice = answer->choice(delta.choice());
      absl::StrAppend(&choice.text, delta.text());
      std::string reasoning;
      if constexpr (requires { delta.reasoning(); }) reasoning = delta.reasoning();
      absl::StrAppend(&choice.reasoning, reasoning);
      choice.token_ids.insert(choice.token_ids.end(), delta.token_ids().begin(),
                              delta.token_ids().end());
      choice.logprobs.insert(choice.logprobs.end(), delta.logprobs().begin(),
                             delta.logprobs().end());
      if constexpr (requires { delta.prompt_logprobs(); }) {
        answer->prompt_logprobs.insert(answer->prompt_logprobs.end(),
                                       delta.prompt_logprobs().begin(),
                                       delta.prompt_logprobs().end());
      }
      if (on_text && delta.choice() == 0) on_text(delta.text(), reasoning);
    } else if (event.has_finished()) {
      for (const v1::ChoiceFinish& finish : event.finished().choices()) {
        answer->choice(finish.index()).finish_reason = finish.finish_reason();
      }
      answer->usage = event.finished().usage();
    }
  }
  answer->total_time = absl::Now() - start;
  return begun;
}

}  // namespace

AnswerChoice& Answer::choice(uint32_t index) {
  if (index == 0) return *this;
  if (others.size() < index) others.resize(index);
  return others[index - 1];
}

size_t Answer::num_tokens() const {
  size_t tokens = token_ids.size();
  for (const AnswerChoice& other : others) tokens += other.token_ids.size();
  return tokens;
}

double Answer::TokensPerSecond() const {
  const absl::Duration between = time_to_last_token - time_to_first_token;
  if (num_tokens() < 2 || between < kShortestMeasuredTime) return 0;
  return static_cast<double>(num_tokens() - 1) / absl::ToDoubleSeconds(between);
}

absl::StatusOr<std::unique_ptr<GatewayClient>> GatewayClient::Create(const ClientOptions& options) {
  QS_ASSIGN_OR_RETURN(Connection connection, Connection::Open(options.connection));
  return std::unique_ptr<GatewayClient>(new GatewayClient(options, std::move(connection)));
}

GatewayClient::GatewayClient(const ClientOptions& options, Connection connection)
    : options_(options),
      connection_(std::move(connection)),
      channel_(connection_.MakeChannel()),
      stub_(v1::Inference::NewStub(channel_)) {}

std::shared_ptr<grpc::ClientContext> GatewayClient::NewContext() {
  auto context = std::make_shared<grpc::ClientContext>();
  context->set_deadline(
      std::chrono::system_clock::now() +
      std::chrono::milliseconds(static_cast<int64_t>(options_.timeout_seconds * 1000)));
  connection_.Authorize(context.get());
  std::atomic_store(&context_, context);
  return context;
}

absl::Status GatewayClient::Explain(const grpc::Status& status, const std::string& model,
                                    bool begun) {
  const absl::Status explained = connection_.Explain(status, begun);
  const bool needed = model.empty() && ErrorField(explained) == "model";  // there are several
  if (!needed && ErrorReason(explained) != kReasonModelNotFound) return explained;
  const absl::StatusOr<v1::ListModelsResponse> models = ListModels();
  return models.ok() ? ExplainModel(explained, model, *models) : explained;
}

absl::Status GatewayClient::ExplainModel(const absl::Status& status, const std::string& model,
                                         const v1::ListModelsResponse& models) const {
  if (models.models().empty()) return WithMessage(status, NoModels());
  const std::string names = absl::StrJoin(
      models.models(), ", ", [](std::string* out, const v1::Model& one) { out->append(one.id()); });
  return WithMessage(status, model.empty()
                                 ? absl::StrCat("which model? There are: ", names, " (--model)")
                                 : absl::StrCat(status.message(), "; there are: ", names));
}

std::string GatewayClient::NoModels() const {
  return absl::StrCat(
      connection_.Authorization().empty() ? "no model is served at " : "this key sees no model at ",
      connection_.address());
}

void GatewayClient::Cancel() {
  if (auto context = std::atomic_load(&context_)) context->TryCancel();
}

absl::StatusOr<Answer> GatewayClient::Chat(v1::ChatRequest request, const OnText& on_text) {
  if (request.model().empty()) request.set_model(options_.model);
  const auto context = NewContext();
  const absl::Time start = absl::Now();
  Answer answer;
  const auto reader = stub_->StreamChat(context.get(), request);
  const bool begun = ReadAnswer<v1::StreamChatResponse>(*reader, start, on_text, &answer);
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return Explain(status, request.model(), begun);
  return answer;
}

absl::StatusOr<Answer> GatewayClient::Complete(v1::CompleteRequest request, const OnText& on_text) {
  if (request.model().empty()) request.set_model(options_.model);
  const auto context = NewContext();
  const absl::Time start = absl::Now();
  Answer answer;
  const auto reader = stub_->StreamComplete(context.get(), request);
  const bool begun = ReadAnswer<v1::StreamCompleteResponse>(*reader, start, on_text, &answer);
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return Explain(status, request.model(), begun);
  return answer;
}

absl::StatusOr<v1::TokenizeResponse> GatewayClient::Tokenize(v1::TokenizeRequest request) {
  if (request.model().empty()) request.set_model(options_.model);
  v1::TokenizeResponse response;
  const grpc::Status status = stub_->Tokenize(NewContext().get(), request, &response);
  if (!status.ok()) return Explain(status, request.model());
  return response;
}

absl::StatusOr<std::string> GatewayClient::Detokenize(v1::DetokenizeTextRequest request) {
  if (request.model().empty()) request.set_model(options_.model);
  v1::DetokenizeTextResponse response;
  const grpc::Status status = stub_->Detokenize(NewContext().get(), request, &response);
  if (!status.ok()) return Explain(status, request.model());
  return response.text();
}

absl::StatusOr<v1::ListModelsResponse> GatewayClient::ListModels() {
  v1::ListModelsResponse response;
  const grpc::Status status =
      stub_->ListModels(NewContext().get(), v1::ListModelsRequest(), &response);
  if (!status.ok()) return connection_.Explain(status);
  return response;
}

absl::StatusOr<bool> GatewayClient::IsServing(const std::string& service) {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::health::v1::HealthCheckResponse response;
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  const grpc::Status status = stub->Check(NewContext().get(), request, &response);
  if (!status.ok()) return connection_.Explain(status);
  return response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
}

std::string FinishReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_TOOL_CALLS:
      return "tool_calls";
    default:
      return "unspecified";
  }
}

}  // namespace qwenserve
