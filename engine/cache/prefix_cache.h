#ifndef QWENSERVE_ENGINE_CACHE_PREFIX_CACHE_H_
#define QWENSERVE_ENGINE_CACHE_PREFIX_CACHE_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/cache/block_allocator.h"

namespace qwenserve {

// Names the contents of a full block: SHA-256 over the key of the block before it and its ids.
// Equal keys mean equal ids at equal positions after an equal root; that two contents share a key
// is not to be feared, not even from somebody who looks for such a pair.
using BlockKey = std::array<uint8_t, 32>;

// What keys and values depend on besides the ids: the replica's numerics, the tenant that may share
// them, and which of the rope tables rotates the sequence (NTK's alpha).
BlockKey RootKey(absl::string_view fingerprint, absl::string_view cache_salt, int64_t rope_variant);

// The keys of one sequence's full blocks, computed when they are first asked for.
class BlockKeys {
 public:
  explicit BlockKeys(const BlockKey& root) : keys_({root}) {}
  // Key of positions 16 * block .. 16 * block + 15 of `tokens`, which must have them. The ids that
  // an earlier call has seen must not have changed.
  const BlockKey& Get(int64_t block, absl::Span<const int32_t> tokens);

 private:
  std::vector<BlockKey> keys_;  // the root, then one for each block
};

// Finds blocks by their contents. It owns none: a block that is published stays usable while
// somebody holds it, and afterwards until the allocator needs its memory. The contents of a
// published block never change: who shares a block reads it only. One thread, the allocator's.
class PrefixCache {
 public:
  explicit PrefixCache(BlockAllocator* allocator);

  // The block with these contents, or -1.
  int32_t Find(const BlockKey& key) const;
  // The caller holds the block and has computed all of it. No effect when another block already has
  // these contents, or this one has been published before.
  void Publish(const BlockKey& key, int32_t block);
  // Nobody shall find this block, which the caller holds, any more.
  void Forget(int32_t block);

  int64_t size() const { return static_cast<int64_t>(by_key_.size()); }  // blocks
  uint64_t evictions() const { return evictions_; }

  // Stops the program when the two indexes disagree.
  void CheckIntegrity() const;

 private:
  struct KeyHash {
    size_t operator()(const BlockKey& key) const;
  };

  BlockAllocator* const allocator_;
  absl::flat_hash_map<BlockKey, int32_t, KeyHash> by_key_;
  std::vector<BlockKey> keys_;   // of every block, where published_
  std::vector<bool> published_;  // by block
  uint64_t evictions_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_CACHE_PREFIX_CACHE_H_
