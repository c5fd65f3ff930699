#include "services/gateway/routing/prefix_directory.h"

#include <algorithm>

#include "services/gateway/routing/router.h"

namespace qwenserve {

std::vector<uint64_t> PrefixKeys(absl::Span<const uint64_t> block_hashes, uint32_t block_tokens,
                                 absl::string_view cache_salt) {
  std::vector<uint64_t> keys;
  if (block_tokens == 0) return keys;
  const size_t stride = std::max<size_t>(1, kPrefixStride / block_tokens);
  const uint64_t salt = cache_salt.empty() ? 0 : StableHash(0, cache_salt);
  keys.reserve(block_hashes.size() / stride);
  for (size_t i = stride; i <= block_hashes.size(); i += stride) {
    keys.push_back(block_hashes[i - 1] ^ salt);
  }
  return keys;
}

std::vector<PrefixDirectory::Known> PrefixDirectory::Find(absl::Span<const uint64_t> keys) const {
  std::vector<Known> known;
  for (size_t i = keys.size(); i > 0; --i) {
    auto found = entries_.find(keys[i - 1]);
    if (found == entries_.end()) continue;
    const std::string& id = found->second.instance_id;
    if (std::any_of(known.begin(), known.end(),
                    [&](const Known& other) { return other.instance_id == id; })) {
      continue;
    }
    known.push_back({id, i});
  }
  return known;
}

void PrefixDirectory::Record(absl::Span<const uint64_t> keys, const std::string& instance_id) {
  // Beginnings are of use to more prompts than their continuations: they age last.
  for (size_t i = keys.size(); i > 0; --i) {
    auto [entry, added] = entries_.try_emplace(keys[i - 1]);
    if (added) {
      entry->second.age = ages_.insert(ages_.end(), keys[i - 1]);
    } else {
      ages_.splice(ages_.end(), ages_, entry->second.age);
    }
    entry->second.instance_id = instance_id;
  }
  while (entries_.size() > capacity_) {
    entries_.erase(ages_.front());
    ages_.pop_front();
  }
}

}  // namespace qwenserve
