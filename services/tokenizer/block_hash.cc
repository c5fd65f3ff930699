#include "services/tokenizer/block_hash.h"

#include <cstddef>

#include "engine/base/split_mix.h"

namespace qwenserve {
std::vector<uint64_t> ChainBlockHashes(const std::vector<int32_t>& ids) {
  std::vector<uint64_t> hashes;
  hashes.reserve(ids.size() / kRoutingBlockTokens);
  uint64_t hash = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    hash = SplitMix((hash ^ static_cast<uint32_t>(ids[i])) + kSplitMixStep);
    if ((i + 1) % kRoutingBlockTokens == 0) hashes.push_back(hash);
  }
  return hashes;
}

}  // namespace qwenserve
