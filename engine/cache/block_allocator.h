#ifndef QWENSERVE_ENGINE_CACHE_BLOCK_ALLOCATOR_H_
#define QWENSERVE_ENGINE_CACHE_BLOCK_ALLOCATOR_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace qwenserve {

// Hands out the KV blocks 0 .. num_blocks - 1 by number; the memory behind them is KvCache's. A
// block has as many owners as references, and is free again when the last one is gone. Knows no
// device and no sequence. One thread.
class BlockAllocator {
 public:
  explicit BlockAllocator(int64_t num_blocks);

  int64_t num_blocks() const { return static_cast<int64_t>(references_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }

  // A free block with one reference, or -1.
  int32_t Allocate();
  void AddReference(int32_t block);
  void Release(int32_t block);

  // Stops the program when a block is lost, free twice or free with references.
  void CheckIntegrity() const;

 private:
  std::vector<int32_t> references_;
  std::vector<int32_t> free_;  // a stack: the block freed last has the warmest memory
};

// The blocks of one sequence in the order of its positions, one reference to each. Move-only; gives
// them back when it goes. Must not outlive the allocator.
class BlockTable {
 public:
  explicit BlockTable(BlockAllocator* allocator) : allocator_(allocator) {}
  ~BlockTable() { Clear(); }
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  // Grows to `count` blocks (never shrinks). False, and nothing changed, when too few are free.
  bool GrowTo(int64_t count);
  void Clear();

  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  absl::Span<const int32_t> blocks() const { return blocks_; }

 private:
  BlockAllocator* allocator_;
  std::vector<int32_t> blocks_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_CACHE_BLOCK_ALLOCATOR_H_
