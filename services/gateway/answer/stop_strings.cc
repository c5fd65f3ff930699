#include "services/gateway/answer/stop_strings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  stops_.reserve(stops.size());
  for (std::string& stop : stops) {
    QS_CHECK(!stop.empty());
    stops_.emplace_back(std::move(stop));
  }
}

StopMatcher::Result StopMatcher::Push(absl::string_view text) {
  Result result;
  if (stops_.empty()) {
    result.text = std::string(text);
    return result;
  }
  for (size_t i = 0; i < text.size(); ++i) {
    for (size_t s = 0; s < stops_.size(); ++s) {
      if (!stops_[s].Feed(text[i])) continue;
      const bool begins_first =
          !result.matched || stops_[s].tag().size() > stops_[*result.matched].tag().size();
      if (begins_first) result.matched = s;
    }
    if (!result.matched) continue;
    absl::StrAppend(&held_, text.substr(0, i + 1));
    held_.resize(held_.size() - stops_[*result.matched].tag().size());
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
  for (const TagMatcher& stop : stops_) longest = std::max(longest, stop.matched());
  return longest;
}

}  // namespace qwenserve
