#include "engine/cache/prefix_cache.h"

#include <cstring>

#include "engine/base/sha256.h"
#include "kernels/attention_batch.h"
#include "kernels/check.h"

namespace qwenserve {

BlockKey RootKey(absl::string_view fingerprint, absl::string_view cache_salt,
                 int64_t rope_variant) {
  Sha256 hash;
  // Lengths first, so that no part can pass for the end of another.
  for (absl::string_view part : {fingerprint, cache_salt}) {
    const uint64_t bytes = part.size();
    hash.Update(&bytes, sizeof(bytes));
    hash.Update(part);
  }
  hash.Update(&rope_variant, sizeof(rope_variant));
  return hash.Digest();
}

const BlockKey& BlockKeys::Get(int64_t block, absl::Span<const int32_t> tokens) {
  QS_CHECK(block >= 0 && (block + 1) * kKvBlockSize <= static_cast<int64_t>(tokens.size()));
  while (static_cast<int64_t>(keys_.size()) <= block + 1) {
    Sha256 hash;
    hash.Update(keys_.back().data(), keys_.back().size());
    hash.Update(tokens.data() + (keys_.size() - 1) * kKvBlockSize, kKvBlockSize * sizeof(int32_t));
    keys_.push_back(hash.Digest());
  }
  return keys_[block + 1];
}

size_t PrefixCache::KeyHash::operator()(const BlockKey& key) const {
  size_t hash = 0;
  std::memcpy(&hash, key.data(), sizeof(hash));
  return hash;
}

PrefixCache::PrefixCache(BlockAllocator* allocator)
    : allocator_(allocator),
      keys_(allocator->num_blocks()),
      published_(allocator->num_blocks(), false) {
  allocator_->OnEvict([this](int32_t block) {
    QS_CHECK(published_[block]);
    published_[block] = false;
    QS_CHECK(by_key_.erase(keys_[block]) == 1);
    ++evictions_;
  });
}

int32_t PrefixCache::Find(const BlockKey& key) const {
  const auto it = by_key_.find(key);
  return it == by_key_.end() ? -1 : it->second;
}

void PrefixCache::Publish(const BlockKey& key, int32_t block) {
  if (published_[block] || !by_key_.emplace(key, block).second) return;
  published_[block] = true;
  keys_[block] = key;
  allocator_->SetKept(block, true);
}

void PrefixCache::Forget(int32_t block) {
  if (!published_[block]) return;
  published_[block] = false;
  QS_CHECK(by_key_.erase(keys_[block]) == 1);
  allocator_->SetKept(block, false);
}

void PrefixCache::CheckIntegrity() const {
  for (const auto& [key, block] : by_key_) QS_CHECK(published_[block] && keys_[block] == key);
  int64_t published = 0;
  for (size_t b = 0; b < published_.size(); ++b) published += published_[b] ? 1 : 0;
  QS_CHECK(published == size());
}

}  // namespace qwenserve
