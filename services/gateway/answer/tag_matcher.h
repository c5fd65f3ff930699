#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_TAG_MATCHER_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_TAG_MATCHER_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace qwenserve {

// Watches a text, byte by byte, for one tag (Knuth-Morris-Pratt: amortised constant work per
// byte). An empty tag is never found. Not thread-safe.
class TagMatcher {
 public:
  explicit TagMatcher(std::string tag) : tag_(std::move(tag)), fail_(tag_.size(), 0) {
    for (size_t i = 1, length = 0; i < tag_.size(); ++i) {
      while (length > 0 && tag_[i] != tag_[length]) length = fail_[length - 1];
      if (tag_[i] == tag_[length]) ++length;
      fail_[i] = length;
    }
  }

  // True when `c` completes the tag; Reset before more.
  bool Feed(char c) {
    if (tag_.empty()) return false;
    while (matched_ > 0 && tag_[matched_] != c) matched_ = fail_[matched_ - 1];
    if (tag_[matched_] == c) ++matched_;
    return matched_ == tag_.size();
  }

  void Reset() { matched_ = 0; }

  // Bytes at the end of the text with which the tag may begin.
  size_t matched() const { return matched_; }
  const std::string& tag() const { return tag_; }

 private:
  std::string tag_;
  // fail_[i]: length of the longest proper prefix of tag_[0..i] that is also its suffix.
  std::vector<size_t> fail_;
  size_t matched_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_TAG_MATCHER_H_
