#include "tools/qwenctl/answer_output.h"

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/qwenctl/exit_codes.h"

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
  std::string stats = absl::StrCat(answer.token_ids.size(), " tokens");
  if (const double rate = answer.TokensPerSecond(); rate > 0) {
    absl::StrAppendFormat(&stats, ", %.1f tokens/s", rate);
  }
  if (!answer.token_ids.empty()) {
    absl::StrAppendFormat(&stats, ", first token after %.0f ms",
                          absl::ToDoubleMilliseconds(answer.time_to_first_token));
  }
  return absl::StrCat(stats, ", ", FinishReasonName(answer.finish_reason));
}

int PrintAnswer(const ClientOptions& options,
                const std::function<absl::StatusOr<Answer>(const GatewayClient::OnText&)>& ask) {
  bool printed = false;
  GatewayClient::OnText on_text;
  if (!options.json()) {
    on_text = [&printed](absl::string_view text, absl::string_view) {
      std::cout << text << std::flush;
      printed = true;
    };
  }
  const absl::StatusOr<Answer> answer = ask(on_text);
  if (printed) std::cout << std::endl;
  if (!answer.ok()) return ReportError(answer.status());
  if (options.json()) {
    std::cout << AnswerToJson(*answer).dump() << std::endl;
  } else {
    std::cerr << "[" << AnswerStats(*answer) << "]" << std::endl;
  }
  return kExitOk;
}

}  // namespace qwenserve
