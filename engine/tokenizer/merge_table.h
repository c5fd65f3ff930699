#ifndef QWENSERVE_ENGINE_TOKENIZER_MERGE_TABLE_H_
#define QWENSERVE_ENGINE_TOKENIZER_MERGE_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/tokenizer/vocab.h"

namespace qwenserve {

// (left id, right id) -> (rank, id of the joined token). Open addressing in one array of 16-byte
// slots, because a look-up that misses the cache once is most of the cost of BPE.
class MergeTable {
 public:
  static constexpr uint32_t kNoMerge = UINT32_MAX;

  struct Result {
    uint32_t rank;  // kNoMerge when the pair does not merge
    int32_t id;
  };

  // Of equal pairs the last one counts.
  explicit MergeTable(const std::vector<Vocab::Merge>& merges);

  Result Find(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    size_t i = Hash(key) & mask_;
    while (slots_[i].key != key) {
      if (slots_[i].key == kEmpty) return {kNoMerge, -1};
      i = (i + 1) & mask_;
    }
    return slots_[i].result;
  }

  // Joins neighbours among `tokens` [count], the pair of lowest rank first (the leftmost of
  // equals), while any merges and more than `stop` are left; returns how many are left. Quadratic,
  // and for a few dozen tokens faster than anything else. `scratch` [count] is overwritten.
  size_t MergeAll(int32_t* tokens, size_t count, size_t stop, Result* scratch) const;

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;  // ids are not negative

  struct Slot {
    uint64_t key = kEmpty;
    Result result = {kNoMerge, -1};
  };

  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }
  static size_t Hash(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return static_cast<size_t>(key ^ (key >> 32));
  }

  std::vector<Slot> slots_;
  size_t mask_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_MERGE_TABLE_H_
