#include "services/tokenizer/block_hash.h"

#include <cstddef>

namespace qwenserve {
namespace {

// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit moves every output bit.
uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

}  // namespace

std::vector<uint64_t> ChainBlockHashes(const std::vector<int32_t>& ids) {
  std::vector<uint64_t> hashes;
  hashes.reserve(ids.size() / kRoutingBlockTokens);
  uint64_t hash = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    hash = Mix(hash ^ static_cast<uint32_t>(ids[i]));
    if ((i + 1) % kRoutingBlockTokens == 0) hashes.push_back(hash);
  }
  return hashes;
}

}  // namespace qwenserve
