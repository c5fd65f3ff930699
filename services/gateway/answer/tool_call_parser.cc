#include "services/gateway/answer/tool_call_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"

namespace qwenserve {
namespace {

// Bytes between an opening and its separator; with more it is no call.
constexpr size_t kMaxNameBytes = 256;
constexpr char kSpace[] = " \t\r\n";

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
// What may stand between the end of the arguments and that of the call: the bracket of the outer
// object, which models forget or write twice.
bool IsFiller(char c) { return IsBlank(c) || c == '}'; }

}  // namespace

ToolCallParser::ToolCallParser(v1::AnswerFormat::ToolCallFormat format,
                               std::shared_ptr<const ToolPolicy> policy, uint32_t choice)
    : policy_(std::move(policy)), choice_(choice) {
  if (policy_ == nullptr || !policy_->allowed()) return;
  switch (format) {
    case v1::AnswerFormat::TOOL_CALL_FORMAT_JSON_TAGS:
      enabled_ = true;
      name_inside_ = true;
      open_ = TagMatcher("<tool_call>");
      close_ = TagMatcher("</tool_call>");
      break;
    case v1::AnswerFormat::TOOL_CALL_FORMAT_REACT:
      enabled_ = true;
      open_ = TagMatcher("\nAction:");
      separator_ = TagMatcher("\nAction Input:");
      // An opening may be the first thing in the answer.
      trim_ = true;
      FeedText('\n');
      break;
    case v1::AnswerFormat::TOOL_CALL_FORMAT_FLOWER:
      enabled_ = true;
      open_ = TagMatcher("✿FUNCTION✿:");
      separator_ = TagMatcher("✿ARGS✿:");
      break;
    default:
      break;
  }
}

void ToolCallParser::Push(absl::string_view piece, std::string* text,
                          std::vector<v1::ToolCallDelta>* calls) {
  if (!enabled_) {
    text->append(piece.data(), piece.size());
    return;
  }
  text_ = text;
  calls_ = calls;
  for (size_t i = 0; i < piece.size() && !ended_; ++i) Feed(piece[i]);
}

void ToolCallParser::Finish(std::string* text, std::vector<v1::ToolCallDelta>* calls) {
  if (!enabled_ || ended_) return;
  text_ = text;
  calls_ = calls;
  switch (state_) {
    case State::kName:
      Degrade();
      break;
    case State::kBody:
      if (arguments_done_ && name_.has_value()) {
        Complete();
        if (!std::all_of(tail_.begin(), tail_.end(), IsFiller)) Text(tail_);
      } else if (!committed_) {
        Degrade();
      }
      break;
    case State::kBroken:
      AddArguments(tail_);  // the end was none
      break;
    case State::kText:
    case State::kAfter:
      break;
  }
  Text(std::exchange(held_, std::string()));
}

void ToolCallParser::Feed(char c) {
  switch (state_) {
    case State::kText:
      return FeedText(c);
    case State::kName:
      return FeedName(c);
    case State::kBody:
      return FeedBody(c);
    case State::kBroken:
      return FeedBroken(c);
    case State::kAfter:
      return FeedAfter(c);
  }
}

void ToolCallParser::FeedText(char c) {
  size_t unsettled = held_.size() - open_.matched();
  held_.push_back(c);
  if (open_.Feed(c)) {
    held_.resize(held_.size() - open_.tag().size());
    before_ = std::exchange(held_, std::string());
    OpenCall();
    return;
  }
  // All before `unsettled` is white space, so each byte is looked at once.
  size_t end = 0;
  for (; unsettled < held_.size() - open_.matched(); ++unsettled) {
    if (!IsBlank(held_[unsettled])) end = unsettled + 1;
  }
  if (end == 0) return;
  Text(absl::string_view(held_).substr(0, end));
  held_.erase(0, end);
}

void ToolCallParser::OpenCall() {
  open_.Reset();
  separator_.Reset();
  close_.Reset();
  raw_ = open_.tag();
  state_ = separator_.tag().empty() ? State::kBody : State::kName;
  scanner_ = JsonScanner();
  name_.reset();
  key_.clear();
  arguments_.clear();
  tail_.clear();
  in_arguments_ = arguments_done_ = committed_ = false;
}

void ToolCallParser::FeedName(char c) {
  raw_.push_back(c);
  if (separator_.Feed(c)) {
    absl::string_view name = absl::string_view(raw_).substr(open_.tag().size());
    name = absl::StripAsciiWhitespace(name.substr(0, name.size() - separator_.tag().size()));
    open_.Reset();
    if (Known(name)) {
      name_ = std::string(name);
      state_ = State::kBody;
    } else {
      Degrade();
    }
    return;
  }
  if (open_.Feed(c)) {
    raw_.resize(raw_.size() - open_.tag().size());
    open_.Reset();
    Degrade();
    before_ = std::exchange(held_, std::string());
    OpenCall();
  } else if (raw_.size() > open_.tag().size() + kMaxNameBytes) {
    Degrade();
  }
}

void ToolCallParser::FeedBody(char c) {
  const JsonScanner::Event event = scanner_.Feed(c);
  if (event == JsonScanner::Event::kError) return FailBody(c);
  if (!committed_) raw_.push_back(c);
  if (name_inside_) {
    if (!OnMember(event, c)) return Degrade();
  } else if (c == '{' && !in_arguments_) {
    in_arguments_ = true;
  }
  if (in_arguments_) {
    if (!committed_ && name_.has_value() && !policy_->whole_calls) Commit();
    AddArguments(absl::string_view(&c, 1));
    const bool end =
        name_inside_ ? event == JsonScanner::Event::kValueEnd : event == JsonScanner::Event::kEnd;
    if (end) {
      in_arguments_ = false;
      arguments_done_ = true;
    }
  } else if (arguments_done_) {
    tail_.push_back(c);
  }
  if (event != JsonScanner::Event::kEnd) return;
  tail_.clear();
  if (!name_.has_value()) return Degrade();
  if (!arguments_done_) arguments_ = "{}";
  Complete();
}

bool ToolCallParser::OnMember(JsonScanner::Event event, char c) {
  // Once it is a call, other members change nothing.
  if (committed_ || in_arguments_) return true;
  switch (event) {
    case JsonScanner::Event::kKeyEnd:
      key_ = scanner_.string();
      // Twice the same key: which one should count?
      return !(key_ == "name" && name_.has_value()) && !(key_ == "arguments" && arguments_done_);
    case JsonScanner::Event::kValueBegin:
      if (key_ == "name") return c == '"';
      if (key_ == "arguments") {
        in_arguments_ = true;
        return c == '{';
      }
      return true;
    case JsonScanner::Event::kValueEnd:
      return key_ != "name" || TakeName();
    default:
      return true;
  }
}

bool ToolCallParser::TakeName() {
  const auto name = ParseJson(absl::StrCat("\"", scanner_.string(), "\""), "name");
  if (!name.ok() || !Known(name->get_ref<const std::string&>())) return false;
  name_ = name->get<std::string>();
  if (arguments_done_ && !policy_->whole_calls) Commit();
  return true;
}

void ToolCallParser::FailBody(char c) {
  if (arguments_done_ && name_.has_value()) {
    Complete();
    if (ended_) return;
    if (!std::all_of(tail_.begin(), tail_.end(), IsFiller)) {
      Text(std::exchange(tail_, std::string()));
      state_ = State::kText;
    }
  } else if (committed_) {
    state_ = State::kBroken;
  } else {
    Degrade();
  }
  Feed(c);
}

void ToolCallParser::FeedBroken(char c) {
  TagMatcher& end = name_inside_ ? close_ : open_;
  tail_.push_back(c);
  if (end.Feed(c)) {
    AddArguments(absl::string_view(tail_).substr(0, tail_.size() - end.tag().size()));
    end.Reset();
    tail_.clear();
    trim_ = true;
    ended_ = policy_->single_call;
    before_.clear();
    if (name_inside_) {
      state_ = State::kText;
    } else {
      OpenCall();
    }
    return;
  }
  const size_t certain = tail_.size() - end.matched();
  AddArguments(absl::string_view(tail_).substr(0, certain));
  tail_.erase(0, certain);
}

void ToolCallParser::FeedAfter(char c) {
  const size_t matched = close_.matched();
  tail_.push_back(c);
  if (close_.Feed(c)) {
    close_.Reset();
    tail_.clear();
    state_ = State::kText;
    return;
  }
  const bool fits =
      close_.matched() == 0 ? matched == 0 && IsFiller(c) : close_.matched() == matched + 1;
  if (fits) return;
  // The call had no end; this is what comes after it.
  close_.Reset();
  state_ = State::kText;
  for (const char byte : std::exchange(tail_, std::string())) FeedText(byte);
}

void ToolCallParser::Commit() {
  committed_ = true;
  v1::ToolCallDelta call;
  call.set_index(num_calls_);
  call.set_id(ToolCallId(policy_->id_seed, choice_, num_calls_));
  call.set_name(*name_);
  call.set_arguments_json(std::exchange(arguments_, std::string()));
  calls_->push_back(std::move(call));
  ++num_calls_;
  raw_.clear();
}

void ToolCallParser::Complete() {
  if (!committed_) Commit();
  ++num_complete_;
  trim_ = true;
  ended_ = policy_->single_call;
  state_ = name_inside_ ? State::kAfter : State::kText;
}

bool ToolCallParser::Known(absl::string_view name) const {
  return std::find(policy_->names.begin(), policy_->names.end(), name) != policy_->names.end();
}

void ToolCallParser::AddArguments(absl::string_view piece) {
  if (piece.empty()) return;
  if (!committed_) {
    arguments_.append(piece.data(), piece.size());
    return;
  }
  const uint32_t index = num_calls_ - 1;
  if (calls_->empty() || calls_->back().index() != index) calls_->emplace_back().set_index(index);
  calls_->back().mutable_arguments_json()->append(piece.data(), piece.size());
}

void ToolCallParser::Degrade() {
  const std::string raw = std::exchange(raw_, std::string());
  // Its end may be the beginning of the next opening; white space there waits as it always does.
  size_t end = raw.size() - open_.matched();
  if (end == raw.size()) end = raw.find_last_not_of(kSpace) + 1;
  Text(absl::StrCat(before_, absl::string_view(raw).substr(0, end)));
  before_.clear();
  held_.clear();
  open_.Reset();
  state_ = State::kText;
  for (const char byte : raw.substr(end)) FeedText(byte);
}

void ToolCallParser::Text(absl::string_view text) {
  if (trim_) text = absl::StripLeadingAsciiWhitespace(text);
  if (text.empty()) return;
  trim_ = false;
  text_->append(text.data(), text.size());
}

}  // namespace qwenserve
