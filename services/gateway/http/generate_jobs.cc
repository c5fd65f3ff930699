#include "services/gateway/http/generate_jobs.h"

#include <utility>

#include "absl/time/clock.h"
#include "services/gateway/http/openai_request.h"

namespace qwenserve {

GenerateHandler::Job ParseChatJob(const std::string& body, const RequestLimits& limits) {
  absl::StatusOr<OpenAiChat> chat = ParseChatRequest(body);
  if (!chat.ok()) return {chat.status(), GatewayMetrics::kHttpChat};
  const OpenAiStyle& style = chat->style;
  GenerateHandler::Job job{ValidateChat(chat->request, limits)};
  job.method = style.stream ? GatewayMetrics::kHttpStreamChat : GatewayMetrics::kHttpChat;
  if (!job.request.ok()) return job;
  job.stream = style.stream;
  job.request->whole = !style.stream;
  job.answer = MakeChatAnswer(style, absl::ToUnixSeconds(absl::Now()), job.request->n());
  return job;
}

GenerateHandler::Job ParseCompletionJob(const std::string& body, const RequestLimits& limits) {
  absl::StatusOr<OpenAiCompletion> completion = ParseCompletionRequest(body);
  if (!completion.ok()) return {completion.status(), GatewayMetrics::kHttpComplete};
  const OpenAiStyle& style = completion->style;
  GenerateHandler::Job job{ValidateComplete(completion->request, limits)};
  job.method = style.stream ? GatewayMetrics::kHttpStreamComplete : GatewayMetrics::kHttpComplete;
  if (!job.request.ok()) return job;
  job.stream = style.stream;
  job.request->whole = !style.stream;
  job.answer = MakeCompletionAnswer(style, absl::ToUnixSeconds(absl::Now()), job.request->n(),
                                    completion->request.text());
  return job;
}

}  // namespace qwenserve
