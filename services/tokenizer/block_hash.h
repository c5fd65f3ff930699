#ifndef QWENSERVE_SERVICES_TOKENIZER_BLOCK_HASH_H_
#define QWENSERVE_SERVICES_TOKENIZER_BLOCK_HASH_H_

#include <cstdint>
#include <vector>

namespace qwenserve {

inline constexpr int kRoutingBlockTokens = 16;

// One hash per full block of kRoutingBlockTokens ids, chained: the i-th depends on ids
// [0, 16 * (i + 1)) and on nothing else, so that prompts with a common beginning have common
// hashes, in every worker and on every machine. Not collision-proof against an adversary: good for
// choosing a replica, never for reusing a cache.
std::vector<uint64_t> ChainBlockHashes(const std::vector<int32_t>& ids);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_TOKENIZER_BLOCK_HASH_H_
