#include "tools/qwenctl/answer_output.h"

#include "absl/strings/str_format.h"

namespace qwenserve {

Json AnswerToJson(const Answer& answer) {
  Json json = {{"text", answer.text},
               {"token_ids", answer.token_ids},
               {"finish_reason", FinishReasonName(answer.finish_reason)},
               {"usage",
                {{"prompt_tokens", answer.usage.prompt_tokens()},
                 {"completion_tokens", answer.usage.completion_tokens()}}}};
  if (!answer.reasoning.empty()) json["reasoning"] = answer.reasoning;
  json["request_id"] = answer.request_id;
  json["seed"] = answer.seed;
  json["timing"] = {{"first_token_seconds", absl::ToDoubleSeconds(answer.time_to_first_token)},
                    {"total_seconds", absl::ToDoubleSeconds(answer.total_time)},
                    {"tokens_per_second", answer.TokensPerSecond()}};
  if (answer.token_ids.empty()) json["timing"].erase("first_token_seconds");
  return json;
}

std::string AnswerStats(const Answer& answer) {
  if (answer.token_ids.empty()) {
    return absl::StrFormat("0 tokens, %s", FinishReasonName(answer.finish_reason));
  }
  return absl::StrFormat("%d tokens, %.1f tokens/s, first token after %.0f ms, %s",
                         answer.token_ids.size(), answer.TokensPerSecond(),
                         absl::ToDoubleMilliseconds(answer.time_to_first_token),
                         FinishReasonName(answer.finish_reason));
}

}  // namespace qwenserve
