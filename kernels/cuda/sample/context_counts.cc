#include "kernels/cuda/sample/context_counts.h"

#include <algorithm>

namespace qwenserve {

absl::Span<const ContextId> ContextCounts::Of(absl::Span<const int32_t> ids,
                                              int64_t num_prompt_ids) {
  Context& context = contexts_[{ids.data(), num_prompt_ids}];
  const size_t known = context.ids.size();
  if (known > ids.size() || !std::equal(context.ids.begin(), context.ids.end(), ids.begin())) {
    context = Context();
  }
  context.last_step = step_;
  for (size_t i = context.ids.size(); i < ids.size(); ++i) {
    const auto [place, first] =
        context.places.try_emplace(ids[i], static_cast<int32_t>(context.distinct.size()));
    if (first) context.distinct.push_back({ids[i], 0});
    if (static_cast<int64_t>(i) >= num_prompt_ids) ++context.distinct[place->second].count;
    context.ids.push_back(ids[i]);
    ++counted_;
  }
  return context.distinct;
}

void ContextCounts::EndStep() {
  ++step_;
  absl::erase_if(contexts_,
                 [this](const auto& entry) { return entry.second.last_step + kKept < step_; });
}

}  // namespace qwenserve
