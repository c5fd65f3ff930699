#include "engine/cache/block_allocator.h"

#include <limits>

#include "kernels/check.h"

namespace qwenserve {

BlockAllocator::BlockAllocator(int64_t num_blocks) {
  QS_CHECK(num_blocks > 0 && num_blocks <= std::numeric_limits<int32_t>::max());
  references_.resize(num_blocks, 0);
  free_.reserve(num_blocks);
  for (int64_t b = num_blocks; b-- > 0;) free_.push_back(static_cast<int32_t>(b));
}

int32_t BlockAllocator::Allocate() {
  if (free_.empty()) return -1;
  const int32_t block = free_.back();
  free_.pop_back();
  QS_CHECK(references_[block] == 0);
  references_[block] = 1;
  return block;
}

void BlockAllocator::AddReference(int32_t block) {
  QS_CHECK(block >= 0 && block < num_blocks() && references_[block] > 0);
  ++references_[block];
}

void BlockAllocator::Release(int32_t block) {
  QS_CHECK(block >= 0 && block < num_blocks() && references_[block] > 0);
  if (--references_[block] == 0) free_.push_back(block);
}

void BlockAllocator::CheckIntegrity() const {
  std::vector<bool> is_free(references_.size(), false);
  for (int32_t block : free_) {
    QS_CHECK(block >= 0 && block < num_blocks());
    QS_CHECK(!is_free[block]);
    is_free[block] = true;
  }
  for (size_t b = 0; b < references_.size(); ++b) {
    QS_CHECK(references_[b] >= 0);
    QS_CHECK(is_free[b] == (references_[b] == 0));
  }
}

bool BlockTable::GrowTo(int64_t count) {
  if (count - size() > allocator_->num_free()) return false;
  while (size() < count) blocks_.push_back(allocator_->Allocate());
  return true;
}

void BlockTable::Clear() {
  for (int32_t block : blocks_) allocator_->Release(block);
  blocks_.clear();
}

}  // namespace qwenserve
