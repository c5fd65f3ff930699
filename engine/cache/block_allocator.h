#ifndef QWENSERVE_ENGINE_CACHE_BLOCK_ALLOCATOR_H_
#define QWENSERVE_ENGINE_CACHE_BLOCK_ALLOCATOR_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace qwenserve {

// Hands out the KV blocks 0 .. num_blocks - 1 by number; the memory behind them is KvCache's. A
// block has as many owners as references. When the last one is gone the block is free; one whose
// contents are worth keeping then stays as it is until memory is needed, the one unused for
// longest first. Knows no device, no sequence and no contents. One thread.
class BlockAllocator {
 public:
  explicit BlockAllocator(int64_t num_blocks);
  BlockAllocator(const BlockAllocator&) = delete;
  BlockAllocator& operator=(const BlockAllocator&) = delete;

  // Called when a kept block is about to be handed out for other contents; it is kept no more.
  void OnEvict(std::function<void(int32_t block)> on_evict) { on_evict_ = std::move(on_evict); }

  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  // That Allocate can hand out: those with kept contents are among them.
  int64_t num_free() const { return static_cast<int64_t>(free_.size()) + num_idle_; }

  // A block with one reference, or -1.
  int32_t Allocate();
  // Also for a kept block without references.
  void AddReference(int32_t block);
  void Release(int32_t block);
  int32_t references(int32_t block) const { return blocks_[block].references; }

  // For a block in use: what happens when its last reference goes.
  void SetKept(int32_t block, bool kept);

  // Stops the program when a block is lost, free twice or free with references.
  void CheckIntegrity() const;

 private:
  // Idle blocks (kept, no references) form a ring through anchor_ in the order of their release.
  struct Block {
    int32_t references = 0;
    bool kept = false;
    int32_t next = -1;  // while idle
    int32_t previous = -1;
  };

  void Link(int32_t block);
  void Unlink(int32_t block);

  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // a stack: the block freed last has the warmest memory
  Block anchor_;               // next: idle for longest; previous: idle last
  int64_t num_idle_ = 0;
  std::function<void(int32_t)> on_evict_;
};

// The blocks of one sequence in the order of its positions, one reference to each; gives them back
// when it goes. Must not outlive the allocator.
class BlockTable {
 public:
  explicit BlockTable(BlockAllocator* allocator) : allocator_(allocator) {}
  ~BlockTable() { Clear(); }
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  // Takes a further reference to a block that holds the next positions already.
  void Share(int32_t block);
  // Grows to `count` blocks (never shrinks). False, and nothing changed, when too few are free.
  bool GrowTo(int64_t count);
  // From the last to the first, so that of a prefix that is kept the end goes before the beginning:
  // no block is of use without those before it.
  void Clear();

  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  absl::Span<const int32_t> blocks() const { return blocks_; }

 private:
  BlockAllocator* allocator_;
  std::vector<int32_t> blocks_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_CACHE_BLOCK_ALLOCATOR_H_
