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

Json ChoiceToJson(const AnswerChoice& choice) {
  Json json = {{"text", choice.text},
               {"token_ids", choice.token_ids},
               {"finish_reason", FinishReasonName(choice.finish_reason)}};
  if (!choice.reasoning.empty()) json["reasoning"] = choice.reasoning;
  if (!choice.logprobs.empty()) json["logprobs"] = LogprobsToJson(choice.logprobs);
  return json;
}

// Each under a line that says which one it is and how it ended.
void PrintChoices(const Answer& answer) {
  const size_t n = answer.others.size() + 1;
  for (size_t i = 0; i < n; ++i) {
    const AnswerChoice& choice = i == 0 ? answer : answer.others[i - 1];
    std::cout << "--- answer " << i + 1 << " of " << n << ", "
              << FinishReasonName(choice.finish_reason) << "\n"
              << choice.text << "\n";
  }
  std::cout << std::flush;
}

}  // namespace

Json AnswerToJson(const Answer& answer) {
  Json json = ChoiceToJson(answer);
  json["usage"] = {{"prompt_tokens", answer.usage.prompt_tokens()},
                   {"completion_tokens", answer.usage.completion_tokens()}};
  if (!answer.others.empty()) {
    json["choices"] = {ChoiceToJson(answer)};
    for (const AnswerChoice& other : answer.others) json["choices"].push_back(ChoiceToJson(other));
  }
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
  std::string stats = absl::StrCat(answer.num_tokens(), " tokens");
  if (const double rate = answer.TokensPerSecond(); rate > 0) {
    absl::StrAppendFormat(&stats, ", %.1f tokens/s", rate);
  }
  if (!answer.token_ids.empty()) {
    absl::StrAppendFormat(&stats, ", first token after %.0f ms",
                          absl::ToDoubleMilliseconds(answer.time_to_first_token));
  }
  return absl::StrCat(stats, ", ", FinishReasonName(answer.finish_reason));
}

int PrintAnswer(const ClientOptions& options, uint32_t n,
                const std::function<absl::StatusOr<Answer>(const GatewayClient::OnText&)>& ask) {
  bool printed = false;
  GatewayClient::OnText on_text;
  if (!options.json() && n <= 1) {
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
    if (!answer->others.empty()) PrintChoices(*answer);
    PrintLogprobs("Log-probabilities of the prompt:", answer->prompt_logprobs);
    PrintLogprobs("Log-probabilities of the answer:", answer->logprobs);
    for (size_t i = 0; i < answer->others.size(); ++i) {
      PrintLogprobs(absl::StrCat("Log-probabilities of answer ", i + 2, ":"),
                    answer->others[i].logprobs);
    }
    std::cerr << "[" << AnswerStats(*answer) << "]" << std::endl;
  }
  return kExitOk;
}

}  // namespace qwenserve
