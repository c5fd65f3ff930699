#include "services/gateway/choice.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

std::vector<std::string> Concatenate(std::vector<std::string> a,
                                     const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

Choice::Choice(Settings settings)
    : settings_(std::move(settings)),
      stop_(Concatenate(settings_.stop, settings_.format_stop)),
      parser_(settings_.format, settings_.tools_allowed) {
  delta_.choice = settings_.index;
  delta_.text = settings_.echo_text;
}

absl::Status Choice::OnEvent(const v1::SequenceEvent& event) {
  if (generator_finish_.has_value() || finish_.has_value()) return absl::OkStatus();
  if (event.token_ids_size() > 0 && event.first_token_index() != received_) {
    return absl::InternalError(absl::StrCat("generator sent token ", event.first_token_index(),
                                            " where ", received_, " follows"));
  }
  received_ += event.token_ids_size();
  if (received_ - taken_ > settings_.credit_window) {
    return absl::InternalError(absl::StrCat("generator is ", received_ - taken_,
                                            " tokens ahead with a credit of ",
                                            settings_.credit_window));
  }
  undecoded_.insert(undecoded_.end(), event.token_ids().begin(), event.token_ids().end());
  if (event.has_finish()) {
    generator_finish_ = event.finish();
    FinishIfComplete();
  }
  return absl::OkStatus();
}

std::optional<v1::DetokenizeItem> Choice::NextItem() {
  if (finish_.has_value() || item_out_) return std::nullopt;
  if (undecoded_.empty() && !generator_finish_.has_value()) return std::nullopt;
  v1::DetokenizeItem item;
  item.set_key(settings_.key);
  item.set_seq(item_seq_);
  item.set_pending(pending_);
  item.mutable_ids()->Add(undecoded_.begin(), undecoded_.end());
  item_flush_ = generator_finish_.has_value();
  item.set_flush(item_flush_);
  item_ids_ = std::exchange(undecoded_, {});
  item_out_ = true;
  return item;
}

absl::Status Choice::OnText(const v1::DetokenizeResult& result) {
  if (finish_.has_value() || !item_out_ || result.seq() != item_seq_) return absl::OkStatus();
  if (result.error().code() != 0) {
    return absl::InternalError("the tokenizer cannot decode what the generator sent");
  }
  const absl::string_view text = result.text();
  if (result.text_lengths_size() != static_cast<int>(item_ids_.size())) {
    return absl::InternalError("tokenizer answered another number of tokens than it was asked");
  }
  item_out_ = false;
  ++item_seq_;
  pending_ = item_flush_ ? std::string() : result.pending();
  if (delta_.token_ids.empty()) delta_.first_token_index = completion_tokens_;
  size_t begin = 0;
  for (size_t i = 0; i < item_ids_.size(); ++i) {
    const size_t end = result.text_lengths(static_cast<int>(i));
    if (end < begin || end > text.size()) {
      return absl::InternalError("tokenizer's text lengths do not fit its text");
    }
    delta_.token_ids.push_back(item_ids_[i]);
    ++completion_tokens_;
    const bool was_reasoning = parser_.in_reasoning();
    const bool stopped = PushText(text.substr(begin, end - begin));
    if (was_reasoning || parser_.in_reasoning()) ++reasoning_tokens_;
    if (stopped) return absl::OkStatus();
    begin = end;
  }
  if (begin < text.size() && PushText(text.substr(begin))) return absl::OkStatus();
  FinishIfComplete();
  return absl::OkStatus();
}

bool Choice::PushText(absl::string_view piece) {
  StopMatcher::Result result = stop_.Push(piece);
  parser_.Push(result.text, &delta_);
  if (!result.matched.has_value()) return false;
  Finish(v1::FINISH_REASON_STOP, result.matched);
  return true;
}

void Choice::FinishIfComplete() {
  if (!generator_finish_.has_value() || item_out_) return;
  if (!undecoded_.empty() || !pending_.empty()) return;
  const bool length = generator_finish_->reason() == v1::SEQUENCE_FINISH_REASON_LENGTH;
  Finish(length ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_STOP, std::nullopt);
}

void Choice::Finish(v1::FinishReason reason, std::optional<size_t> stop) {
  if (!stop.has_value()) parser_.Push(stop_.Finish(), &delta_);
  parser_.Finish(&delta_);
  finish_.emplace();
  finish_->set_index(settings_.index);
  const bool calls = parser_.has_tool_calls() && reason == v1::FINISH_REASON_STOP;
  finish_->set_finish_reason(calls ? v1::FINISH_REASON_TOOL_CALLS : reason);
  finish_->set_completion_tokens(completion_tokens_);
  if (stop.has_value() && *stop < settings_.stop.size()) {
    finish_->set_stop_string(settings_.stop[*stop]);
  }
}

AnswerDelta Choice::TakeDelta() {
  AnswerDelta next;
  next.choice = settings_.index;
  next.first_token_index = completion_tokens_;
  return std::exchange(delta_, std::move(next));
}

uint32_t Choice::OnTaken(uint32_t tokens) {
  taken_ += tokens;
  credit_owed_ += tokens;
  if (credit_owed_ < (settings_.credit_window + 3) / 4) return 0;
  return std::exchange(credit_owed_, 0);
}

}  // namespace qwenserve
