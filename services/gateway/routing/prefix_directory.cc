#include "services/gateway/routing/prefix_directory.h"

#include <algorithm>

#include "kernels/check.h"
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

PrefixDirectory::PrefixDirectory(size_t capacity) : capacity_(capacity) {
  QS_CHECK(capacity > 0 && capacity < UINT32_MAX);
}

std::vector<PrefixDirectory::Known> PrefixDirectory::Find(absl::Span<const uint64_t> keys) const {
  std::vector<Known> known;
  for (size_t i = keys.size(); i > 0; --i) {
    const auto found = slot_of_.find(keys[i - 1]);
    if (found == slot_of_.end()) continue;
    const std::string& id = replicas_[slots_[found->second].replica].instance_id;
    if (std::any_of(known.begin(), known.end(),
                    [&](const Known& other) { return other.instance_id == id; })) {
      continue;
    }
    known.push_back({id, i});
  }
  return known;
}

void PrefixDirectory::Record(absl::Span<const uint64_t> keys, const std::string& instance_id) {
  if (keys.empty()) return;
  if (slots_.empty()) Reserve();
  const uint32_t replica = ReplicaOf(instance_id);
  ++replicas_[replica].entries;  // so that it stays while its last entries may go
  // Beginnings are of use to more prompts than their continuations: they age last.
  for (size_t i = keys.size(); i > 0; --i) {
    const uint32_t slot = TakeSlot(keys[i - 1]);
    LinkNewest(slot);
    slots_[slot].replica = replica;
    ++replicas_[replica].entries;
  }
  Release(replica);
}

void PrefixDirectory::Reserve() {
  slots_.resize(capacity_ + 1);
  Slot& ends = slots_[capacity_];
  ends.older = ends.newer = static_cast<uint32_t>(capacity_);
  slot_of_.reserve(capacity_);
}

// The slot of `key`, in no ring and of no replica: its own, a new one, or the oldest.
uint32_t PrefixDirectory::TakeSlot(uint64_t key) {
  const auto found = slot_of_.find(key);
  uint32_t slot;
  if (found != slot_of_.end()) {
    slot = found->second;
  } else if (size() < capacity_) {
    slot = static_cast<uint32_t>(size());
    slots_[slot].key = key;
    slot_of_.emplace(key, slot);
    return slot;
  } else {
    slot = slots_[capacity_].newer;
    slot_of_.erase(slots_[slot].key);
    slots_[slot].key = key;
    slot_of_.emplace(key, slot);
  }
  Unlink(slot);
  Release(slots_[slot].replica);
  return slot;
}

void PrefixDirectory::Unlink(uint32_t slot) {
  slots_[slots_[slot].older].newer = slots_[slot].newer;
  slots_[slots_[slot].newer].older = slots_[slot].older;
}

void PrefixDirectory::LinkNewest(uint32_t slot) {
  const uint32_t ends = static_cast<uint32_t>(capacity_);
  const uint32_t newest = slots_[ends].older;
  slots_[slot].older = newest;
  slots_[slot].newer = ends;
  slots_[newest].newer = slot;
  slots_[ends].older = slot;
}

uint32_t PrefixDirectory::ReplicaOf(const std::string& instance_id) {
  const auto [found, added] = replica_of_.try_emplace(instance_id, 0);
  if (!added) return found->second;
  if (free_replicas_.empty()) {
    free_replicas_.push_back(static_cast<uint32_t>(replicas_.size()));
    replicas_.emplace_back();
  }
  found->second = free_replicas_.back();
  free_replicas_.pop_back();
  replicas_[found->second].instance_id = instance_id;
  return found->second;
}

void PrefixDirectory::Release(uint32_t replica) {
  if (--replicas_[replica].entries > 0) return;
  replica_of_.erase(replicas_[replica].instance_id);
  replicas_[replica].instance_id.clear();
  free_replicas_.push_back(replica);
}

}  // namespace qwenserve
