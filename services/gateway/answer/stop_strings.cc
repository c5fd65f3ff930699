#include "services/gateway/answer/stop_strings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

std::vector<size_t> FailureTable(const std::string& text) {
  std::vector<size_t> fail(text.size(), 0);
  size_t length = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = fail[length - 1];
    if (text[i] == text[length]) ++length;
    fail[i] = length;
  }
  return fail;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  patterns_.reserve(stops.size());
  for (std::string& stop : stops) {
    QS_CHECK(!stop.empty());
    std::vector<size_t> fail = FailureTable(stop);
    patterns_.push_back({std::move(stop), std::move(fail)});
  }
}

StopMatcher::Result StopMatcher::Push(absl::string_view text) {
  Result result;
  if (patterns_.empty()) {
    result.text = std::string(text);
    return result;
  }
  for (size_t i = 0; i < text.size(); ++i) {
    const char byte = text[i];
    for (size_t p = 0; p < patterns_.size(); ++p) {
      Pattern& pattern = patterns_[p];
      while (pattern.matched > 0 && pattern.text[pattern.matched] != byte) {
        pattern.matched = pattern.fail[pattern.matched - 1];
      }
      if (pattern.text[pattern.matched] == byte) ++pattern.matched;
      if (pattern.matched < pattern.text.size()) continue;
      const bool begins_first =
          !result.matched || pattern.text.size() > patterns_[*result.matched].text.size();
      if (begins_first) result.matched = p;
    }
    if (!result.matched) continue;
    absl::StrAppend(&held_, text.substr(0, i + 1));
    held_.resize(held_.size() - patterns_[*result.matched].text.size());
    result.text = std::move(held_);
    held_.clear();
    return result;
  }
  absl::StrAppend(&held_, text);
  const size_t keep = HoldBack();
  result.text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return result;
}

std::string StopMatcher::Finish() { return std::exchange(held_, std::string()); }

size_t StopMatcher::HoldBack() const {
  size_t longest = 0;
  for (const Pattern& pattern : patterns_) longest = std::max(longest, pattern.matched);
  return longest;
}

}  // namespace qwenserve
