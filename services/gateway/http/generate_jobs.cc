#include "services/gateway/http/generate_jobs.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/call/random_draws.h"
#include "services/gateway/http/openai_error.h"
#include "services/gateway/http/openai_request.h"

namespace qwenserve {
namespace {

// Of all prompts in one body.
constexpr uint64_t kMaxChoices = 128;

absl::StatusOr<std::vector<GenerateRequest>> ValidatePrompts(
    const std::vector<v1::CompleteRequest>& prompts, const RequestLimits& limits) {
  const bool several = prompts.size() > 1;
  std::vector<GenerateRequest> requests;
  for (size_t i = 0; i < prompts.size(); ++i) {
    absl::StatusOr<GenerateRequest> request = ValidateComplete(prompts[i], limits);
    if (!request.ok()) return several ? OfPrompt(request.status(), i) : request.status();
    requests.push_back(*std::move(request));
  }
  if (!several) return requests;
  const uint64_t n = requests.front().n();
  if (n * requests.size() > kMaxChoices) {
    return InvalidField("n", absl::StrCat("is ", n, ", for ", requests.size(), " prompts: at most ",
                                          kMaxChoices, " answers together"));
  }
  // The same prompt twice is asked for two answers, so each place has a seed of its own; they
  // follow from the first, which the answer tells.
  const v1::SamplingParams& given = requests.front().options.sampling();
  const uint64_t seed = given.has_seed() ? given.seed() : DrawSeed();
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].options.mutable_sampling()->set_seed(seed + i);
  }
  return requests;
}

}  // namespace

GenerateHandler::Job ParseChatJob(const std::string& body, const RequestLimits& limits) {
  absl::StatusOr<OpenAiChat> chat = ParseChatRequest(body);
  if (!chat.ok()) return {chat.status(), GatewayMetrics::kHttpChat};
  const OpenAiStyle& style = chat->style;
  absl::StatusOr<GenerateRequest> request = ValidateChat(std::move(chat->request), limits);
  GenerateHandler::Job job{std::vector<GenerateRequest>()};
  job.method = style.stream ? GatewayMetrics::kHttpStreamChat : GatewayMetrics::kHttpChat;
  if (!request.ok()) {
    job.requests = request.status();
    return job;
  }
  job.stream = style.stream;
  job.answer = MakeChatAnswer(style, absl::ToUnixSeconds(absl::Now()), request->n());
  job.requests->push_back(*std::move(request));
  return job;
}

GenerateHandler::Job ParseCompletionJob(const std::string& body, const RequestLimits& limits) {
  absl::StatusOr<OpenAiCompletion> completion = ParseCompletionRequest(body);
  if (!completion.ok()) return {completion.status(), GatewayMetrics::kHttpComplete};
  const OpenAiStyle& style = completion->style;
  GenerateHandler::Job job{ValidatePrompts(completion->requests, limits)};
  job.method = style.stream ? GatewayMetrics::kHttpStreamComplete : GatewayMetrics::kHttpComplete;
  if (!job.requests.ok()) return job;
  job.stream = style.stream;
  std::vector<std::string> prompts;
  for (v1::CompleteRequest& request : completion->requests) {
    prompts.push_back(std::move(*request.mutable_text()));
  }
  job.answer = MakeCompletionAnswer(style, absl::ToUnixSeconds(absl::Now()),
                                    job.requests->front().n(), std::move(prompts));
  return job;
}

}  // namespace qwenserve
