#include "services/gateway/answer/reasoning_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"

namespace qwenserve {

ReasoningParser::ReasoningParser(bool may_reason, bool starts_in_reasoning)
    : state_(!may_reason           ? State::kAnswer
             : starts_in_reasoning ? State::kReasoning
                                   : State::kBegin),
      open_("<think>"),
      close_("</think>") {}

void ReasoningParser::Push(absl::string_view piece, std::string* reasoning, std::string* answer) {
  for (size_t i = 0; i < piece.size(); ++i) {
    switch (state_) {
      case State::kBegin:
        Begin(piece[i], answer);
        break;
      case State::kReasoning:
        Reason(piece[i], reasoning);
        break;
      case State::kAnswerBreaks:
        if (piece[i] == '\n') break;
        state_ = State::kAnswer;
        [[fallthrough]];
      case State::kAnswer:
        answer->append(piece.data() + i, piece.size() - i);
        return;
    }
  }
}

void ReasoningParser::Finish(std::string* reasoning, std::string* answer) {
  // An unfinished tag was text after all; an unfinished reasoning has no answer.
  if (state_ == State::kReasoning) {
    if (!reasoning_has_text_) held_.erase(0, std::min(held_.find_first_not_of('\n'), held_.size()));
    reasoning->append(std::exchange(held_, std::string()));
  } else {
    answer->append(std::exchange(held_, std::string()));
  }
}

void ReasoningParser::Begin(char c, std::string* answer) {
  const size_t matched = open_.matched();
  held_.push_back(c);
  if (open_.Feed(c)) {
    held_.clear();
    state_ = State::kReasoning;
    return;
  }
  const bool fits = open_.matched() == 0
                        ? matched == 0 && absl::ascii_isspace(static_cast<unsigned char>(c))
                        : open_.matched() == matched + 1;
  if (fits) return;
  answer->append(std::exchange(held_, std::string()));
  state_ = State::kAnswer;
}

void ReasoningParser::Reason(char c, std::string* reasoning) {
  size_t unsettled = held_.size() - close_.matched();
  held_.push_back(c);
  if (close_.Feed(c)) {
    // Line breaks before the tag belong to the tag.
    held_.clear();
    state_ = State::kAnswerBreaks;
    return;
  }
  size_t end = 0;
  for (; unsettled < held_.size() - close_.matched(); ++unsettled) {
    if (held_[unsettled] != '\n') end = unsettled + 1;
  }
  if (end == 0) return;
  const size_t begin = reasoning_has_text_ ? 0 : held_.find_first_not_of('\n');
  reasoning->append(held_, begin, end - begin);
  reasoning_has_text_ = true;
  held_.erase(0, end);
}

}  // namespace qwenserve
