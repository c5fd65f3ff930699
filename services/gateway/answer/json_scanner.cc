#include "services/gateway/answer/json_scanner.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace qwenserve {
namespace {

// As deep as ParseJson goes.
constexpr size_t kMaxDepth = 64;

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

JsonScanner::Event JsonScanner::Feed(char c) {
  switch (state_) {
    case State::kString:
    case State::kEscape:
    case State::kHex:
      return InString(c);
    case State::kLiteral:
      if (c != literal_left_.front()) return Event::kError;
      literal_left_.remove_prefix(1);
      if (literal_left_.empty()) state_ = State::kAfterValue;
      return Event::kNone;
    case State::kMinus:
    case State::kZero:
    case State::kInteger:
    case State::kPoint:
    case State::kFraction:
    case State::kExponent:
    case State::kExponentSign:
    case State::kExponentDigits:
      return InNumber(c);
    default:
      break;
  }
  if (IsSpace(c)) return Event::kNone;
  switch (state_) {
    case State::kObject:
      return c == '{' ? Open(c, State::kFirstKey) : Event::kError;
    case State::kFirstKey:
      return c == '}' ? Close(c) : BeginKey(c);
    case State::kKey:
      return BeginKey(c);
    case State::kColon:
      if (c != ':') return Event::kError;
      state_ = State::kValue;
      return Event::kNone;
    case State::kFirstValue:
      return c == ']' ? Close(c) : BeginValue(c);
    case State::kValue:
      return BeginValue(c);
    default:
      return AfterValue(c);
  }
}

JsonScanner::Event JsonScanner::Open(char c, State next) {
  if (nesting_.size() == kMaxDepth) return Event::kError;
  nesting_.push_back(c);
  state_ = next;
  return Event::kNone;
}

JsonScanner::Event JsonScanner::Close(char c) {
  if (c != (InObject() ? '}' : ']')) return Event::kError;
  nesting_.pop_back();
  state_ = State::kAfterValue;
  if (nesting_.empty()) return Event::kEnd;
  return nesting_.size() == 1 ? Event::kValueEnd : Event::kNone;
}

JsonScanner::Event JsonScanner::BeginKey(char c) {
  if (c != '"') return Event::kError;
  key_ = true;
  if (nesting_.size() == 1) string_.clear();
  state_ = State::kString;
  return Event::kNone;
}

JsonScanner::Event JsonScanner::BeginValue(char c) {
  const bool member = nesting_.size() == 1;
  if (c == '"') {
    key_ = false;
    if (member) string_.clear();
    state_ = State::kString;
  } else if (c == '{' || c == '[') {
    if (Open(c, c == '{' ? State::kFirstKey : State::kFirstValue) == Event::kError) {
      return Event::kError;
    }
  } else if (c == '-') {
    state_ = State::kMinus;
  } else if (IsDigit(c)) {
    state_ = c == '0' ? State::kZero : State::kInteger;
  } else if (c == 't' || c == 'f' || c == 'n') {
    literal_left_ = c == 't' ? "rue" : c == 'f' ? "alse" : "ull";
    state_ = State::kLiteral;
  } else {
    return Event::kError;
  }
  return member ? Event::kValueBegin : Event::kNone;
}

JsonScanner::Event JsonScanner::AfterValue(char c) {
  if (c != ',') return Close(c);
  state_ = InObject() ? State::kKey : State::kValue;
  return Event::kNone;
}

JsonScanner::Event JsonScanner::InString(char c) {
  const bool member = nesting_.size() == 1;
  if (state_ == State::kString && c == '"') {
    state_ = key_ ? State::kColon : State::kAfterValue;
    if (!member) return Event::kNone;
    return key_ ? Event::kKeyEnd : Event::kValueEnd;
  }
  if (member) string_.push_back(c);
  if (state_ == State::kString) {
    if (static_cast<unsigned char>(c) < 0x20) return Event::kError;
    if (c == '\\') state_ = State::kEscape;
  } else if (state_ == State::kEscape) {
    if (!absl::StrContains("\"\\/bfnrtu", absl::string_view(&c, 1))) return Event::kError;
    hex_left_ = 4;
    state_ = c == 'u' ? State::kHex : State::kString;
  } else {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return Event::kError;
    if (--hex_left_ == 0) state_ = State::kString;
  }
  return Event::kNone;
}

JsonScanner::Event JsonScanner::InNumber(char c) {
  const bool digit = IsDigit(c);
  const bool exponent = c == 'e' || c == 'E';
  switch (state_) {
    case State::kMinus:
      if (!digit) return Event::kError;
      state_ = c == '0' ? State::kZero : State::kInteger;
      return Event::kNone;
    case State::kPoint:
    case State::kFraction:
      if (digit) {
        state_ = State::kFraction;
        return Event::kNone;
      }
      if (state_ == State::kPoint) return Event::kError;
      break;
    case State::kExponent:
      if (c == '+' || c == '-') {
        state_ = State::kExponentSign;
        return Event::kNone;
      }
      [[fallthrough]];
    case State::kExponentSign:
      if (!digit) return Event::kError;
      state_ = State::kExponentDigits;
      return Event::kNone;
    case State::kExponentDigits:
      if (digit) return Event::kNone;
      break;
    default:  // kZero, kInteger
      if (digit && state_ == State::kInteger) return Event::kNone;
      if (c == '.') {
        state_ = State::kPoint;
        return Event::kNone;
      }
  }
  if (exponent && state_ != State::kExponentDigits) {
    state_ = State::kExponent;
    return Event::kNone;
  }
  // A number has no end of its own.
  state_ = State::kAfterValue;
  return IsSpace(c) ? Event::kNone : AfterValue(c);
}

}  // namespace qwenserve
