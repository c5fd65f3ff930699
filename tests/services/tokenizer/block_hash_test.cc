#include "services/tokenizer/block_hash.h"

#include <numeric>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

std::vector<int32_t> Ids(int count) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), 1000);
  return ids;
}

TEST(BlockHashTest, OneHashPerFullBlock) {
  EXPECT_EQ(ChainBlockHashes({}).size(), 0u);
  EXPECT_EQ(ChainBlockHashes(Ids(15)).size(), 0u);
  EXPECT_EQ(ChainBlockHashes(Ids(16)).size(), 1u);
  EXPECT_EQ(ChainBlockHashes(Ids(47)).size(), 2u);
}

TEST(BlockHashTest, CommonBeginningsHaveCommonHashes) {
  std::vector<int32_t> other = Ids(64);
  other[40] = 7;  // in the third block
  const auto a = ChainBlockHashes(Ids(64));
  const auto b = ChainBlockHashes(other);
  EXPECT_EQ(a[0], b[0]);
  EXPECT_EQ(a[1], b[1]);
  EXPECT_NE(a[2], b[2]);
  EXPECT_NE(a[3], b[3]);  // equal ids, another past
}

TEST(BlockHashTest, OrderMatters) {
  std::vector<int32_t> swapped = Ids(16);
  std::swap(swapped[3], swapped[4]);
  EXPECT_NE(ChainBlockHashes(Ids(16)), ChainBlockHashes(swapped));
}

// Workers of different builds must agree, so the value itself is fixed (computed in Python).
TEST(BlockHashTest, ValueIsStable) {
  EXPECT_EQ(ChainBlockHashes(Ids(16)).at(0), 10399467605543849924u);
}

}  // namespace
}  // namespace qwenserve
