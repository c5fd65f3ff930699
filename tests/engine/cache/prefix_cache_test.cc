#include "engine/cache/prefix_cache.h"

#include <numeric>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/attention_batch.h"

namespace qwenserve {
namespace {

std::vector<int32_t> Ids(int count, int first = 0) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

TEST(BlockKeys, NameIdsPositionsAndRoot) {
  const BlockKey root = RootKey("fingerprint", "salt", 1);
  BlockKeys keys(root);
  const std::vector<int32_t> ids = Ids(48);
  const BlockKey third = keys.Get(2, ids);
  std::set<BlockKey> all = {root, keys.Get(0, ids), keys.Get(1, ids), third};
  EXPECT_EQ(all.size(), 4u);
  // The same again, and with more ids behind.
  EXPECT_EQ(keys.Get(2, ids), third);
  EXPECT_EQ(BlockKeys(root).Get(2, Ids(60)), third);

  // One id elsewhere, in the block itself or before it.
  for (int position : {0, 31, 47}) {
    std::vector<int32_t> other = ids;
    other[position] += 100;
    EXPECT_TRUE(all.insert(BlockKeys(root).Get(2, other)).second) << position;
  }
  // The same ids at other positions.
  EXPECT_TRUE(all.insert(BlockKeys(root).Get(0, Ids(16, 32))).second);
  // Other roots; no part passes for the end of the one before.
  for (const BlockKey& other : {RootKey("fingerprint", "salt", 2), RootKey("fingerprint", "", 1),
                                RootKey("fingerprints", "alt", 1), RootKey("", "salt", 1)}) {
    EXPECT_TRUE(all.insert(BlockKeys(other).Get(2, ids)).second);
  }
}

class PrefixCacheTest : public testing::Test {
 protected:
  int32_t Published(int first) {
    const int32_t block = allocator_.Allocate();
    cache_.Publish(Key(first), block);
    return block;
  }
  static BlockKey Key(int first) {
    return BlockKeys(RootKey("f", "", 0)).Get(0, Ids(kKvBlockSize, first));
  }
  ~PrefixCacheTest() override {
    allocator_.CheckIntegrity();
    cache_.CheckIntegrity();
  }

  BlockAllocator allocator_{4};
  PrefixCache cache_{&allocator_};
};

TEST_F(PrefixCacheTest, ABlockIsFoundInUseAndAfterwards) {
  const int32_t block = Published(1);
  EXPECT_EQ(cache_.Find(Key(1)), block);
  EXPECT_EQ(cache_.Find(Key(2)), -1);
  EXPECT_EQ(allocator_.num_free(), 3);
  allocator_.Release(block);
  EXPECT_EQ(allocator_.num_free(), 4);
  EXPECT_EQ(cache_.Find(Key(1)), block);
  allocator_.AddReference(block);
  EXPECT_EQ(allocator_.num_free(), 3);
  EXPECT_EQ(allocator_.references(block), 1);
  allocator_.Release(block);
}

TEST_F(PrefixCacheTest, MemoryComesFromEmptyBlocksFirstThenFromTheOneUnusedForLongest) {
  const int32_t a = Published(1), b = Published(2), c = Published(3);
  allocator_.Release(b);
  allocator_.Release(a);
  allocator_.Release(c);
  allocator_.AddReference(b);  // used again
  allocator_.Release(b);
  const int32_t empty = allocator_.Allocate();
  EXPECT_EQ(cache_.evictions(), 0);
  EXPECT_EQ(allocator_.Allocate(), a);
  EXPECT_EQ(cache_.Find(Key(1)), -1);
  EXPECT_EQ(allocator_.Allocate(), c);
  EXPECT_EQ(allocator_.Allocate(), b);
  EXPECT_EQ(allocator_.Allocate(), -1);
  EXPECT_EQ(cache_.evictions(), 3);
  EXPECT_EQ(cache_.size(), 0);
  EXPECT_NE(empty, a);
}

TEST_F(PrefixCacheTest, TheEndOfAPrefixGoesBeforeItsBeginning) {
  BlockTable table(&allocator_);
  ASSERT_TRUE(table.GrowTo(4));
  for (int b = 0; b < 4; ++b) cache_.Publish(Key(b), table.blocks()[b]);
  table.Clear();
  EXPECT_EQ(allocator_.num_free(), 4);
  for (int left = 3; left >= 0; --left) {
    allocator_.Allocate();
    for (int b = 0; b < 4; ++b) EXPECT_EQ(cache_.Find(Key(b)) >= 0, b < left);
  }
}

TEST_F(PrefixCacheTest, TheFirstOfTwoEqualBlocksIsTheOneThatIsFound) {
  const int32_t first = Published(1);
  const int32_t second = Published(1);
  EXPECT_NE(first, second);
  EXPECT_EQ(cache_.Find(Key(1)), first);
  allocator_.Release(second);  // was never offered, so it is empty now
  allocator_.Release(first);
  EXPECT_EQ(cache_.size(), 1);
  EXPECT_EQ(allocator_.Allocate(), second);
}

TEST_F(PrefixCacheTest, AForgottenBlockIsFoundNoMore) {
  const int32_t block = Published(1);
  cache_.Forget(block);
  cache_.Forget(block);
  EXPECT_EQ(cache_.Find(Key(1)), -1);
  allocator_.Release(block);
  EXPECT_EQ(allocator_.num_free(), 4);
  EXPECT_EQ(cache_.evictions(), 0);
}

}  // namespace
}  // namespace qwenserve
