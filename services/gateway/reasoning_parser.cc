#include "services/gateway/reasoning_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "services/gateway/text_util.h"

namespace qwenserve {
namespace {

constexpr absl::string_view kOpen = "<think>";
constexpr absl::string_view kClose = "</think>";

}  // namespace

ReasoningParser::ReasoningParser(bool may_reason, bool starts_in_reasoning)
    : state_(!may_reason           ? State::kAnswer
             : starts_in_reasoning ? State::kReasoning
                                   : State::kBegin) {}

void ReasoningParser::Push(absl::string_view piece, std::string* reasoning, std::string* answer) {
  if (state_ == State::kAnswer) {
    answer->append(piece.data(), piece.size());
    return;
  }
  held_.append(piece.data(), piece.size());
  bool changed = true;
  while (changed && state_ != State::kAnswer) {
    switch (state_) {
      case State::kBegin:
        changed = Begin();
        break;
      case State::kReasoning:
        changed = Reason(reasoning);
        break;
      case State::kAnswerBreaks:
        changed = SkipBreaks();
        break;
      case State::kAnswer:
        break;
    }
  }
  if (state_ == State::kAnswer) answer->append(std::exchange(held_, std::string()));
}

void ReasoningParser::Finish(std::string* reasoning, std::string* answer) {
  // An unfinished tag was text after all; an unfinished reasoning has no answer.
  (state_ == State::kReasoning ? reasoning : answer)->append(std::exchange(held_, std::string()));
}

bool ReasoningParser::Begin() {
  const size_t begin = held_.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return false;
  const absl::string_view text = absl::string_view(held_).substr(begin);
  if (absl::StartsWith(text, kOpen)) {
    held_.erase(0, begin + kOpen.size());
    state_ = State::kReasoning;
    return true;
  }
  if (absl::StartsWith(kOpen, text)) return false;
  state_ = State::kAnswer;
  return true;
}

bool ReasoningParser::Reason(std::string* reasoning) {
  if (!reasoning_has_text_) held_.erase(0, std::min(held_.find_first_not_of('\n'), held_.size()));
  const size_t close = held_.find(kClose.data(), 0, kClose.size());
  const size_t end =
      close != std::string::npos ? close : held_.size() - PartialSuffix(held_, kClose);
  // Line breaks before the tag belong to the tag, so those at the end wait too.
  size_t text_end = end;
  while (text_end > 0 && held_[text_end - 1] == '\n') --text_end;
  reasoning->append(held_, 0, text_end);
  reasoning_has_text_ |= text_end > 0;
  if (close == std::string::npos) {
    held_.erase(0, text_end);
    return false;
  }
  held_.erase(0, close + kClose.size());
  state_ = State::kAnswerBreaks;
  return true;
}

bool ReasoningParser::SkipBreaks() {
  held_.erase(0, std::min(held_.find_first_not_of('\n'), held_.size()));
  if (held_.empty()) return false;
  state_ = State::kAnswer;
  return true;
}

}  // namespace qwenserve
