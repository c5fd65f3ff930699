#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_STOP_STRINGS_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_STOP_STRINGS_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "services/gateway/answer/tag_matcher.h"

namespace qwenserve {

// Finds the first of a few texts in an answer that arrives in pieces. The result does not depend
// on where the pieces are cut: the match that is complete first wins and, of several that end at
// the same byte, the one that begins first. Text that may still become a match is held back.
//
// A TagMatcher per stop string: O(bytes * strings), no allocation per byte. One object per answer;
// not thread-safe.
class StopMatcher {
 public:
  // Empty strings are not allowed.
  explicit StopMatcher(std::vector<std::string> stops);

  struct Result {
    // May go to the client: never any byte of a match, nor of what may become one.
    std::string text;
    // Index in the constructor's list. The rest of the piece is dropped, and nothing may be pushed
    // after it.
    std::optional<size_t> matched;
  };
  Result Push(absl::string_view text);

  // What is held back; there will be no more text.
  std::string Finish();

 private:
  // The longest suffix of the text so far with which a match may begin.
  size_t HoldBack() const;

  std::vector<TagMatcher> stops_;
  std::string held_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_STOP_STRINGS_H_
