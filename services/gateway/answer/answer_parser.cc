#include "services/gateway/answer/answer_parser.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace qwenserve {

AnswerParser::AnswerParser(const v1::AnswerFormat& format, std::shared_ptr<const ToolPolicy> tools,
                           uint32_t choice)
    : reasoning_(format.may_reason(), format.starts_in_reasoning()),
      tools_(format.tool_call_format(), tools, choice) {
  if (tools == nullptr || !tools->allowed()) return;
  absl::string_view opening = format.opening();
  if (format.tool_call_format() == v1::AnswerFormat::TOOL_CALL_FORMAT_REACT) {
    thoughts_.emplace(absl::ConsumePrefix(&opening, "Thought:"));
  } else if (format.tool_call_format() == v1::AnswerFormat::TOOL_CALL_FORMAT_FLOWER) {
    if (absl::ConsumePrefix(&opening, "✿RETURN✿")) label_rest_ = ": ";
  }
  // No call can be complete yet, and so there is nothing to report.
  AnswerDelta nothing;
  PushAnswer(opening, &nothing);
}

void AnswerParser::Push(absl::string_view piece, AnswerDelta* delta) {
  std::string answer;
  reasoning_.Push(piece, &delta->reasoning, &answer);
  PushAnswer(answer, delta);
}

void AnswerParser::PushAnswer(absl::string_view answer, AnswerDelta* delta) {
  while (!label_rest_.empty() && !answer.empty()) {
    if (answer.front() == label_rest_.front()) {
      answer.remove_prefix(1);
      label_rest_.remove_prefix(1);
    } else {
      label_rest_ = "";
    }
  }
  if (!thoughts_.has_value()) {
    tools_.Push(answer, &delta->text, &delta->tool_calls);
    return;
  }
  // Byte by byte, so that it is known which text comes before a call.
  for (size_t i = 0; i < answer.size(); ++i) {
    const uint32_t calls = tools_.num_calls();
    std::string text;
    tools_.Push(answer.substr(i, 1), &text, &delta->tool_calls);
    thoughts_->Push(text, &delta->reasoning, &delta->text);
    if (tools_.num_calls() > calls) thoughts_->OnCall(&delta->text);
  }
}

void AnswerParser::Finish(AnswerDelta* delta) {
  std::string answer;
  reasoning_.Finish(&delta->reasoning, &answer);
  PushAnswer(answer, delta);
  if (!thoughts_.has_value()) {
    tools_.Finish(&delta->text, &delta->tool_calls);
    return;
  }
  std::string text;
  tools_.Finish(&text, &delta->tool_calls);
  thoughts_->Push(text, &delta->reasoning, &delta->text);
  thoughts_->Finish(&delta->text);
}

}  // namespace qwenserve
