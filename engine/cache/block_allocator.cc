#include "engine/cache/block_allocator.h"

#include <limits>

#include "kernels/check.h"

namespace qwenserve {

namespace {

constexpr int32_t kAnchor = -1;

}  // namespace

BlockAllocator::BlockAllocator(int64_t num_blocks) {
  QS_CHECK(num_blocks > 0 && num_blocks <= std::numeric_limits<int32_t>::max());
  blocks_.resize(num_blocks);
  free_.reserve(num_blocks);
  for (int64_t b = num_blocks; b-- > 0;) free_.push_back(static_cast<int32_t>(b));
}

void BlockAllocator::Link(int32_t block) {
  const int32_t last = anchor_.previous;
  blocks_[block].previous = last;
  blocks_[block].next = kAnchor;
  (last == kAnchor ? anchor_ : blocks_[last]).next = block;
  anchor_.previous = block;
  ++num_idle_;
}

void BlockAllocator::Unlink(int32_t block) {
  const int32_t previous = blocks_[block].previous;
  const int32_t next = blocks_[block].next;
  (previous == kAnchor ? anchor_ : blocks_[previous]).next = next;
  (next == kAnchor ? anchor_ : blocks_[next]).previous = previous;
  --num_idle_;
}

int32_t BlockAllocator::Allocate() {
  int32_t block = -1;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (num_idle_ > 0) {
    block = anchor_.next;
    Unlink(block);
    blocks_[block].kept = false;
    if (on_evict_ != nullptr) on_evict_(block);
  } else {
    return -1;
  }
  QS_CHECK(blocks_[block].references == 0 && !blocks_[block].kept);
  blocks_[block].references = 1;
  return block;
}

void BlockAllocator::AddReference(int32_t block) {
  QS_CHECK(block >= 0 && block < num_blocks());
  QS_CHECK(blocks_[block].references > 0 || blocks_[block].kept);
  if (blocks_[block].references++ == 0) Unlink(block);
}

void BlockAllocator::Release(int32_t block) {
  QS_CHECK(block >= 0 && block < num_blocks() && blocks_[block].references > 0);
  if (--blocks_[block].references > 0) return;
  if (blocks_[block].kept) {
    Link(block);
  } else {
    free_.push_back(block);
  }
}

void BlockAllocator::SetKept(int32_t block, bool kept) {
  QS_CHECK(block >= 0 && block < num_blocks() && blocks_[block].references > 0);
  blocks_[block].kept = kept;
}

void BlockAllocator::CheckIntegrity() const {
  std::vector<bool> unused(blocks_.size(), false);
  for (int32_t block : free_) {
    QS_CHECK(block >= 0 && block < num_blocks());
    QS_CHECK(!unused[block] && !blocks_[block].kept);
    unused[block] = true;
  }
  int64_t idle = 0;
  int32_t previous = kAnchor;
  for (int32_t block = anchor_.next; block != kAnchor; block = blocks_[block].next) {
    QS_CHECK(++idle <= num_idle_);
    QS_CHECK(!unused[block] && blocks_[block].kept && blocks_[block].previous == previous);
    unused[block] = true;
    previous = block;
  }
  QS_CHECK(idle == num_idle_ && anchor_.previous == previous);
  for (size_t b = 0; b < blocks_.size(); ++b) {
    QS_CHECK(blocks_[b].references >= 0);
    QS_CHECK(unused[b] == (blocks_[b].references == 0));
  }
}

void BlockTable::Share(int32_t block) {
  allocator_->AddReference(block);
  blocks_.push_back(block);
}

bool BlockTable::GrowTo(int64_t count) {
  if (count - size() > allocator_->num_free()) return false;
  while (size() < count) blocks_.push_back(allocator_->Allocate());
  return true;
}

void BlockTable::Clear() {
  while (!blocks_.empty()) {
    allocator_->Release(blocks_.back());
    blocks_.pop_back();
  }
}

}  // namespace qwenserve
