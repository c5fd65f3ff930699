#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_JSON_SCANNER_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_JSON_SCANNER_H_

#include <string>

#include "absl/strings/string_view.h"

namespace qwenserve {

// Follows one JSON object (RFC 8259, nested up to 64 deep) byte by byte, so that it is known at
// every byte whether the text can still become one, and where its members stand. Accepts whatever
// ParseJson does; beyond that it takes keys that occur twice, halves of surrogate pairs and numbers
// of any size. The text must be UTF-8. Constant work per byte; not thread-safe.
class JsonScanner {
 public:
  // What the byte just fed does. "Member" means one of the outermost object.
  enum class Event {
    kError,       // no JSON object has this byte here; feed no more
    kNone,        // all else
    kKeyEnd,      // ends the key of a member; string() has it
    kValueBegin,  // begins the value of a member
    kValueEnd,    // ends the value of a member when that is a string, an object or an array
    kEnd,         // ends the object; feed no more
  };
  Event Feed(char c);

  // The last key or value of a member that is a string: between its quotes, as written.
  const std::string& string() const { return string_; }

 private:
  enum class State {
    kObject,    // the outermost brace
    kFirstKey,  // a key or the end of the object
    kKey,
    kColon,
    kFirstValue,  // a value or the end of the array
    kValue,
    kAfterValue,
    kString,
    kEscape,
    kHex,
    kLiteral,
    kMinus,
    kZero,
    kInteger,
    kPoint,
    kFraction,
    kExponent,
    kExponentSign,
    kExponentDigits,
  };

  bool InObject() const { return nesting_.back() == '{'; }
  Event Open(char c, State next);
  Event Close(char c);
  Event BeginValue(char c);
  Event BeginKey(char c);
  Event AfterValue(char c);
  Event InString(char c);
  Event InNumber(char c);

  State state_ = State::kObject;
  std::string nesting_;  // the open brackets
  bool key_ = false;     // the string is a key
  int hex_left_ = 0;
  absl::string_view literal_left_;
  std::string string_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_JSON_SCANNER_H_
