#include "engine/tokenizer/merge_table.h"

#include <algorithm>

namespace qwenserve {

MergeTable::MergeTable(const std::vector<Vocab::Merge>& merges) {
  size_t size = 16;
  while (size < 2 * merges.size()) size *= 2;
  slots_.resize(size);
  mask_ = size - 1;
  for (const Vocab::Merge& merge : merges) {
    const uint64_t key = Key(merge.left, merge.right);
    size_t i = Hash(key) & mask_;
    while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & mask_;
    slots_[i] = {key, {merge.rank, merge.result}};
  }
}

size_t MergeTable::MergeAll(int32_t* tokens, size_t count, size_t stop, Result* scratch) const {
  Result* const merges = scratch;  // of tokens i and i + 1
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = Find(tokens[i], tokens[i + 1]);
  while (count > stop) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == kNoMerge) break;
    tokens[best] = merges[best].id;
    --count;
    std::copy(tokens + best + 2, tokens + count + 1, tokens + best + 1);
    if (best + 1 < count) {
      std::copy(merges + best + 2, merges + count, merges + best + 1);
      merges[best] = Find(tokens[best], tokens[best + 1]);
    }
    if (best > 0) merges[best - 1] = Find(tokens[best - 1], tokens[best]);
  }
  return count;
}

}  // namespace qwenserve
