#include "services/gateway/call/packed_ids.h"

#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

TEST(PackedIdsTest, GivesBackWhatItWasGiven) {
  PackedIds::Ids ids;
  for (int bit = 0; bit < 32; ++bit) {
    for (int64_t offset : {-1, 0, 1}) ids.Add(static_cast<uint32_t>((int64_t{1} << bit) + offset));
  }
  ids.Add(std::numeric_limits<uint32_t>::max());
  const PackedIds packed(ids);
  EXPECT_EQ(packed.size(), 97u);
  PackedIds::Ids read;
  read.Add(7);
  packed.AppendTo(&read);
  ASSERT_EQ(read.size(), 98);
  EXPECT_EQ(read[0], 7u);
  for (int i = 0; i < ids.size(); ++i) EXPECT_EQ(read[i + 1], ids[i]);
}

TEST(PackedIdsTest, TakesTwoOrThreeBytesForAnId) {
  PackedIds::Ids ids;
  ids.Add((1 << 14) - 1);
  EXPECT_EQ(PackedIds(ids).bytes(), 2u);
  ids.Add(151935);  // the last one of the largest vocabulary
  EXPECT_EQ(PackedIds(ids).bytes(), 5u);
}

TEST(PackedIdsTest, MayBeEmpty) {
  PackedIds::Ids ids;
  PackedIds().AppendTo(&ids);
  PackedIds(ids).AppendTo(&ids);
  EXPECT_EQ(ids.size(), 0);
}

}  // namespace
}  // namespace qwenserve
