#include "kernels/shard_sampler.h"

#include <algorithm>

namespace qwenserve {

std::vector<TokenLogit> MergeTops(absl::Span<const std::vector<TokenLogit>> parts, int64_t count,
                                  bool* all) {
  std::vector<TokenLogit> merged;
  *all = true;
  for (const std::vector<TokenLogit>& part : parts) {
    merged.insert(merged.end(), part.begin(), part.end());
    *all &= static_cast<int64_t>(part.size()) < count;
  }
  std::sort(merged.begin(), merged.end(), [](const TokenLogit& a, const TokenLogit& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  // Behind the first `count` an id may be missing that is in no part's list.
  if (!*all) merged.resize(std::min<size_t>(merged.size(), count));
  return merged;
}

void AddPart(const ShardWeights& part, ShardWeights* sum) {
  sum->raw_mass += part.raw_mass;
  sum->mass += part.mass;
  sum->given_logit = std::max(sum->given_logit, part.given_logit);
  if (part.winner_id < 0) return;
  const bool wins = sum->winner_id < 0 || part.winner_ratio > sum->winner_ratio ||
                    (part.winner_ratio == sum->winner_ratio && part.winner_id < sum->winner_id);
  if (!wins) return;
  sum->winner_id = part.winner_id;
  sum->winner_ratio = part.winner_ratio;
  sum->winner_logit = part.winner_logit;
}

}  // namespace qwenserve
