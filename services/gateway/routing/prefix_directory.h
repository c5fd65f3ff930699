#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_PREFIX_DIRECTORY_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_PREFIX_DIRECTORY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace qwenserve {

// The names of a prompt's beginnings, longest last: entry i stands for the first
// (i + 1) * kPrefixStride ids (or one block, where that is longer). `block_hashes` are chained, one
// per `block_tokens` ids, so every later turn of a conversation has the same values. Prompts of
// different salts share no cache and so no names.
constexpr uint32_t kPrefixStride = 256;
std::vector<uint64_t> PrefixKeys(absl::Span<const uint64_t> block_hashes, uint32_t block_tokens,
                                 absl::string_view cache_salt);

// Which replica this gateway last gave a prompt with this beginning. What the caches really hold
// only the replicas know; this is a good guess as long as it forgets as they do, the least recently
// used first. Not thread-safe.
class PrefixDirectory {
 public:
  // About 60 bytes each, all of them from the first Record on: a gateway's memory is the same on
  // its first day and later.
  explicit PrefixDirectory(size_t capacity = 65536);

  struct Known {
    std::string instance_id;
    size_t keys = 0;  // of the prompt's keys, so many are known there
  };
  // The replicas that know a beginning of this prompt, longest first, none twice.
  std::vector<Known> Find(absl::Span<const uint64_t> keys) const;
  void Record(absl::Span<const uint64_t> keys, const std::string& instance_id);

  size_t size() const { return slot_of_.size(); }
  // That some entry names.
  size_t num_replicas() const { return replica_of_.size(); }

 private:
  // Entries are the links of one ring by age, closed by slots_[capacity_].
  struct Slot {
    uint64_t key = 0;
    uint32_t older = 0;
    uint32_t newer = 0;
    uint32_t replica = 0;
  };
  struct Replica {
    std::string instance_id;
    size_t entries = 0;
  };

  void Reserve();
  uint32_t TakeSlot(uint64_t key);
  void Unlink(uint32_t slot);
  void LinkNewest(uint32_t slot);
  uint32_t ReplicaOf(const std::string& instance_id);
  void Release(uint32_t replica);

  const size_t capacity_;
  std::vector<Slot> slots_;  // the first size() are in use, and the last one
  absl::flat_hash_map<uint64_t, uint32_t> slot_of_;
  std::vector<Replica> replicas_;
  std::vector<uint32_t> free_replicas_;
  absl::flat_hash_map<std::string, uint32_t> replica_of_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_PREFIX_DIRECTORY_H_
