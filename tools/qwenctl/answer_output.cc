#include "tools/qwenctl/answer_output.h"

#include <cstdint>
#include <iostream>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"

namespace qwenserve {

namespace {

// A token may be part of a character: then its bytes are spelled out.
std::string TokenText(const std::string& bytes) {
  return CheckText(bytes).empty() ? bytes : absl::CHexEscape(bytes);
}

template <typename Token>
Json TokenToJson(const Token& token) {
  return {{"id", token.token_id()},
          {"token", TokenText(token.token())},
          {"bytes", std::vector<int>(reinterpret_cast<const uint8_t*>(token.token().data()),
                                     reinterpret_cast<const uint8_t*>(token.token().data()) +
                                         token.token().size())},
          {"logprob", token.logprob()}};
}

Json LogprobsToJson(const std::vector<v1::TokenLogprob>& logprobs) {
  Json list = Json::array();
  for (const v1::TokenLogprob& token : logprobs) {
    Json entry = TokenToJson(token);
    entry["top"] = Json::array();
    for (const v1::TopLogprob& top : token.top()) entry["top"].push_back(TokenToJson(top));
    list.push_back(std::move(entry));
  }
  return list;
}

// A line for each token: its own, then the alternatives'.
void PrintLogprobs(absl::string_view title, const std::vector<v1::TokenLogprob>& logprobs) {
  if (logprobs.empty()) return;
  std::cerr << title << "\n";
  for (const v1::TokenLogprob& token : logprobs) {
    std::cerr << absl::StrFormat("%9.4f  \"%s\"", token.logprob(),
                                 absl::Utf8SafeCEscape(TokenText(token.token())));
    for (const v1::TopLogprob& top : token.top()) {
      std::cerr << absl::StrFormat("  | %.4f \"%s\"", top.logprob(),
                                   absl::Utf8SafeCEscape(TokenText(top.token())));
    }
    std::cerr << "\n";
  }
  std::cerr << std::flush;
}

}  // namespace

Json AnswerToJson(const Answer& answer) {
  Json json = {{"text", answer.text},
               {"token_ids", answer.token_ids},
               {"finish_reason", FinishReasonName(answer.finish_reason)},
               {"usage",
                {{"prompt_tokens", answer.usage.prompt_tokens()},
                 {"completion_tokens", answer.usage.completion_tokens()}}}};
  if (!answer.reasoning.empty()) json["reasoning"] = answer.reasoning;
  if (!answer.logprobs.empty()) json["logprobs"] = LogprobsToJson(answer.logprobs);
  if (!answer.prompt_logprobs.empty()) {
    json["prompt_logprobs"] = LogprobsToJson(answer.prompt_logprobs);
  }
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
    PrintLogprobs("Log-probabilities of the prompt:", answer->prompt_logprobs);
    PrintLogprobs("Log-probabilities of the answer:", answer->logprobs);
    std::cerr << "[" << AnswerStats(*answer) << "]" << std::endl;
  }
  return kExitOk;
}

}  // namespace qwenserve
