#include "services/gateway/answer_parser.h"

namespace qwenserve {

AnswerParser::AnswerParser(const v1::AnswerFormat& format, bool tools_allowed)
    : reasoning_(format.may_reason(), format.starts_in_reasoning()),
      tools_(tools_allowed &&
             format.tool_call_format() == v1::AnswerFormat::TOOL_CALL_FORMAT_JSON_TAGS) {}

void AnswerParser::Push(absl::string_view piece, AnswerDelta* delta) {
  std::string answer;
  reasoning_.Push(piece, &delta->reasoning, &answer);
  tools_.Push(answer, &delta->text, &delta->tool_calls);
}

void AnswerParser::Finish(AnswerDelta* delta) {
  std::string answer;
  reasoning_.Finish(&delta->reasoning, &answer);
  tools_.Push(answer, &delta->text, &delta->tool_calls);
  tools_.Finish(&delta->text, &delta->tool_calls);
}

}  // namespace qwenserve
