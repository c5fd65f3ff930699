#include "services/gateway/answer/choice.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

// Tokens of a prompt's log-probabilities that one item asks for, give or take one token's
// alternatives: well below what a tokenizer allows, and small beside others' items.
constexpr size_t kMaxPromptLookups = 4096;

// Tokens of a prompt's log-probabilities in one delta, for a client that was slow to take the ones
// before: less than 2 MiB with all alternatives, and clients take messages of 4 MiB.
constexpr size_t kMaxPromptTokens = 4096;

std::vector<std::string> Concatenate(std::vector<std::string> a,
                                     const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

Choice::Choice(Settings settings)
    : settings_(std::move(settings)),
      stop_(Concatenate(settings_.stop, settings_.format_stop)),
      parser_(settings_.format, settings_.tools, settings_.index) {
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
  if (absl::Status status = TakeLogprobs(event); !status.ok()) return status;
  undecoded_.insert(undecoded_.end(), event.token_ids().begin(), event.token_ids().end());
  if (event.has_finish()) {
    generator_finish_ = event.finish();
    FinishIfComplete();
  }
  return absl::OkStatus();
}

absl::Status Choice::TakeLogprobs(const v1::SequenceEvent& event) {
  for (const v1::TokenLogprobs& token : event.prompt_logprobs()) {
    if (token.top_ids_size() == token.top_logprobs_size()) continue;
    return absl::InternalError("generator sent another number of alternatives than of their ids");
  }
  if (event.prompt_logprobs_size() > 0 && event.first_prompt_index() != prompt_sent_ + 1) {
    return absl::InternalError(absl::StrCat("generator sent prompt token ",
                                            event.first_prompt_index(), " where ", prompt_sent_ + 1,
                                            " follows"));
  }
  for (const v1::TokenLogprobs& token : event.prompt_logprobs()) {
    // An earlier replica may have sent it too.
    if (++prompt_sent_ <= prompt_received_) continue;
    prompt_waiting_.push_back(token);
    ++prompt_received_;
  }
  if (!settings_.logprobs) return absl::OkStatus();
  if (event.logprobs_size() != event.token_ids_size()) {
    return absl::InternalError(absl::StrCat("generator sent ", event.logprobs_size(),
                                            " log-probabilities for ", event.token_ids_size(),
                                            " tokens"));
  }
  for (const v1::TokenLogprobs& token : event.logprobs()) {
    if (token.top_ids_size() == token.top_logprobs_size()) continue;
    return absl::InternalError("generator sent another number of alternatives than of their ids");
  }
  undecoded_logprobs_.insert(undecoded_logprobs_.end(), event.logprobs().begin(),
                             event.logprobs().end());
  return absl::OkStatus();
}

uint32_t Choice::OnResume() {
  prompt_sent_ = 0;
  credit_owed_ = 0;
  return settings_.credit_window - (received_ - taken_);
}

void Choice::DecodeKnown() {
  if (settings_.known == nullptr || settings_.logprobs || item_out_ || finish_.has_value()) return;
  if (undecoded_.empty() || !pending_.empty() || !prompt_waiting_.empty()) return;
  size_t decoded = 0;
  if (delta_.token_ids.empty()) delta_.first_token_index = completion_tokens_;
  for (; decoded < undecoded_.size(); ++decoded) {
    const std::string* text = settings_.known->Find(undecoded_[decoded]);
    if (text == nullptr) break;
    if (PushToken(undecoded_[decoded], *text)) return;
  }
  undecoded_.erase(undecoded_.begin(), undecoded_.begin() + static_cast<ptrdiff_t>(decoded));
  FinishIfComplete();
}

std::optional<v1::DetokenizeItem> Choice::NextItem() {
  if (finish_.has_value() || item_out_) return std::nullopt;
  if (undecoded_.empty() && prompt_waiting_.empty() && !generator_finish_.has_value()) {
    return std::nullopt;
  }
  v1::DetokenizeItem item;
  item.set_key(settings_.key);
  item.set_seq(item_seq_);
  item.set_pending(pending_);
  item_lookup_.Clear();
  item_prompt_.clear();
  while (!prompt_waiting_.empty() && item_lookup_.size() < kMaxPromptLookups) {
    item_lookup_.Add(prompt_waiting_.front().token_id(), prompt_waiting_.front());
    item_prompt_.push_back(std::move(prompt_waiting_.front()));
    prompt_waiting_.pop_front();
  }
  item_ids_.clear();
  item_logprobs_.clear();
  item_flush_ = false;
  if (prompt_waiting_.empty()) {
    // As many as the credit allows.
    item_ids_ = std::exchange(undecoded_, {});
    item_logprobs_ = std::exchange(undecoded_logprobs_, {});
    item_flush_ = generator_finish_.has_value();
  }
  for (size_t i = 0; i < item_logprobs_.size(); ++i) {
    item_lookup_.Add(item_ids_[i], item_logprobs_[i]);
  }
  item_lookup_.Fill(&item);
  item.mutable_ids()->Add(item_ids_.begin(), item_ids_.end());
  item.set_flush(item_flush_);
  item_out_ = true;
  return item;
}

void Choice::AddPromptLogprobs(const v1::DetokenizeResult& result) {
  if (item_prompt_.empty()) return;
  if (delta_.prompt_logprobs.empty()) delta_.first_prompt_index = prompt_logprobs_made_ + 1;
  for (const v1::TokenLogprobs& token : item_prompt_) {
    delta_.prompt_logprobs.push_back(item_lookup_.Make(token.token_id(), token, result));
  }
  prompt_logprobs_made_ += static_cast<uint32_t>(item_prompt_.size());
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
  if (static_cast<size_t>(result.lookup_tokens_size()) != item_lookup_.size()) {
    return absl::InternalError("tokenizer looked up another number of tokens than it was asked");
  }
  item_out_ = false;
  ++item_seq_;
  AddPromptLogprobs(result);
  pending_ = item_flush_ ? std::string() : result.pending();
  if (delta_.token_ids.empty()) delta_.first_token_index = completion_tokens_;
  size_t begin = 0;
  for (size_t i = 0; i < item_ids_.size(); ++i) {
    const size_t end = result.text_lengths(static_cast<int>(i));
    if (end < begin || end > text.size()) {
      return absl::InternalError("tokenizer's text lengths do not fit its text");
    }
    if (settings_.logprobs) {
      delta_.logprobs.push_back(item_lookup_.Make(item_ids_[i], item_logprobs_[i], result));
    }
    if (PushToken(item_ids_[i], text.substr(begin, end - begin))) return absl::OkStatus();
    begin = end;
  }
  if (begin < text.size() && PushText(text.substr(begin))) return absl::OkStatus();
  FinishIfComplete();
  return absl::OkStatus();
}

bool Choice::PushToken(uint32_t id, absl::string_view piece) {
  delta_.token_ids.push_back(id);
  ++completion_tokens_;
  const bool was_reasoning = parser_.in_reasoning();
  const bool stopped = PushText(piece);
  if (was_reasoning || parser_.in_reasoning()) ++reasoning_tokens_;
  return stopped;
}

bool Choice::PushText(absl::string_view piece) {
  StopMatcher::Result result = stop_.Push(piece);
  parser_.Push(result.text, &delta_);
  if (!result.matched.has_value() && !parser_.ended()) return false;
  Finish(v1::FINISH_REASON_STOP, result.matched);
  return true;
}

void Choice::FinishIfComplete() {
  if (!generator_finish_.has_value() || item_out_) return;
  if (!undecoded_.empty() || !pending_.empty() || !prompt_waiting_.empty()) return;
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
  std::vector<v1::TokenLogprob>& prompt = delta_.prompt_logprobs;
  if (prompt.size() > kMaxPromptTokens) {
    next.first_token_index = delta_.first_token_index;
    next.first_prompt_index = delta_.first_prompt_index;
    next.prompt_logprobs.assign(std::make_move_iterator(prompt.begin()),
                                std::make_move_iterator(prompt.begin() + kMaxPromptTokens));
    prompt.erase(prompt.begin(), prompt.begin() + kMaxPromptTokens);
    delta_.first_prompt_index += static_cast<uint32_t>(kMaxPromptTokens);
    return next;
  }
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
