#include "engine/cache/block_allocator.h"

#include <set>

#include "engine/cache/kv_cache.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

TEST(BlockAllocator, HandsOutEveryBlockOnce) {
  BlockAllocator allocator(5);
  std::set<int32_t> blocks;
  for (int i = 0; i < 5; ++i) blocks.insert(allocator.Allocate());
  EXPECT_EQ(blocks, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(allocator.Allocate(), -1);
  EXPECT_EQ(allocator.num_free(), 0);
  allocator.CheckIntegrity();
}

TEST(BlockAllocator, ASharedBlockIsFreeWhenItsLastOwnerGoes) {
  BlockAllocator allocator(1);
  const int32_t block = allocator.Allocate();
  allocator.AddReference(block);
  allocator.Release(block);
  EXPECT_EQ(allocator.num_free(), 0);
  allocator.Release(block);
  EXPECT_EQ(allocator.num_free(), 1);
  allocator.CheckIntegrity();
}

TEST(BlockAllocatorDeathTest, ReleasingAFreeBlockStopsTheProgram) {
  BlockAllocator allocator(1);
  const int32_t block = allocator.Allocate();
  allocator.Release(block);
  EXPECT_DEATH(allocator.Release(block), "check failed");
}

TEST(BlockTable, GrowsWhollyOrNotAtAllAndGivesBack) {
  BlockAllocator allocator(4);
  {
    BlockTable first(&allocator);
    ASSERT_TRUE(first.GrowTo(3));
    BlockTable second(&allocator);
    EXPECT_FALSE(second.GrowTo(2));
    EXPECT_EQ(second.size(), 0);
    EXPECT_EQ(allocator.num_free(), 1);
    EXPECT_TRUE(second.GrowTo(1));
    EXPECT_TRUE(first.GrowTo(2));  // has more already
    EXPECT_EQ(first.size(), 3);
    allocator.CheckIntegrity();
  }
  EXPECT_EQ(allocator.num_free(), 4);
}

TEST(BlocksFor, RoundsUp) {
  EXPECT_EQ(BlocksFor(0), 0);
  EXPECT_EQ(BlocksFor(1), 1);
  EXPECT_EQ(BlocksFor(kKvBlockSize), 1);
  EXPECT_EQ(BlocksFor(kKvBlockSize + 1), 2);
}

}  // namespace
}  // namespace qwenserve
