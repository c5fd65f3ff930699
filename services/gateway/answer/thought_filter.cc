#include "services/gateway/answer/thought_filter.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace qwenserve {
namespace {

constexpr absl::string_view kThought = "Thought:";
constexpr absl::string_view kAnswer = "Final Answer:";

void Append(absl::string_view from, std::string* to) { to->append(from.data(), from.size()); }

}  // namespace

ThoughtFilter::ThoughtFilter(bool opened)
    : state_(opened ? State::kThought : State::kLabel),
      opened_(opened),
      answer_("\nFinal Answer:") {}

void ThoughtFilter::TakeLabel(std::string* text) {
  if (absl::StartsWith(held_, kThought)) {
    held_.clear();
    state_ = State::kThought;
  } else if (absl::StartsWith(held_, kAnswer)) {
    held_.clear();
    state_ = State::kBreak;
  } else if (!absl::StartsWith(kThought, held_) && !absl::StartsWith(kAnswer, held_)) {
    text->append(std::exchange(held_, std::string()));
    state_ = State::kText;
  }
}

void ThoughtFilter::Push(absl::string_view piece, std::string* reasoning, std::string* text) {
  for (size_t i = 0; i < piece.size(); ++i) {
    const char c = piece[i];
    switch (state_) {
      case State::kLabel:
        held_.push_back(c);
        TakeLabel(text);
        break;
      case State::kThought:
        held_.push_back(c);
        if (!answer_.Feed(c)) break;
        held_.resize(held_.size() - answer_.tag().size());
        Append(absl::StripAsciiWhitespace(held_), reasoning);
        held_.clear();
        state_ = State::kBreak;
        break;
      case State::kBreak:
        if (absl::ascii_isspace(static_cast<unsigned char>(c))) break;
        state_ = State::kText;
        [[fallthrough]];
      case State::kText:
        Append(piece.substr(i), text);
        return;
    }
  }
}

void ThoughtFilter::OnCall(std::string* text) {
  Append(state_ == State::kThought ? absl::StripAsciiWhitespace(held_) : held_, text);
  held_.clear();
  state_ = State::kText;
}

void ThoughtFilter::Finish(std::string* text) {
  if (state_ == State::kThought && !opened_) Append(kThought, text);
  absl::string_view rest = held_;
  if (opened_) rest = absl::StripLeadingAsciiWhitespace(rest);
  Append(rest, text);
  held_.clear();
  state_ = State::kText;
}

}  // namespace qwenserve
