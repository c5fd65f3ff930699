#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_PREFIX_DIRECTORY_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_PREFIX_DIRECTORY_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

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
  // About 100 bytes each.
  explicit PrefixDirectory(size_t capacity = 65536) : capacity_(capacity) {}

  struct Known {
    std::string instance_id;
    size_t keys = 0;  // of the prompt's keys, so many are known there
  };
  // The replicas that know a beginning of this prompt, longest first, none twice.
  std::vector<Known> Find(absl::Span<const uint64_t> keys) const;
  void Record(absl::Span<const uint64_t> keys, const std::string& instance_id);

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::string instance_id;
    std::list<uint64_t>::iterator age;
  };

  const size_t capacity_;
  std::unordered_map<uint64_t, Entry> entries_;
  std::list<uint64_t> ages_;  // least recently used first
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_PREFIX_DIRECTORY_H_
