// Layout and plans: everything is somewhere, once.
#include "kernels/cuda/attention/attention_plan.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/attention/attention_kernels.h"
#include "kernels/cuda/attention/kv_layout.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

TEST(GpuKvLayoutTest, EveryByteBelongsToOneElement) {
  for (int head_dim : {16, 48, 64, 128}) {
    for (bool int8 : {false, true}) {
      const GpuKvLayout layout = {head_dim, int8};
      std::vector<int> owners(layout.head_bytes());
      const auto claim = [&](int offset, int bytes) {
        for (int i = 0; i < bytes; ++i) ++owners.at(offset + i);
      };
      for (int slot = 0; slot < kKvBlockSize; ++slot) {
        claim(layout.key_offset(slot), layout.row_bytes());
        claim(layout.value_offset(slot), layout.row_bytes());
        EXPECT_EQ(layout.key_offset(slot) % 16, 0);
        EXPECT_EQ(layout.value_offset(slot) % 16, 0);
        if (!int8) continue;
        claim(layout.key_scale_offset(slot), 4);
        claim(layout.value_scale_offset(slot), 4);
      }
      EXPECT_EQ(std::count(owners.begin(), owners.end(), 1), layout.head_bytes());
      EXPECT_EQ(layout.head_bytes() % 128, 0);
      EXPECT_EQ(layout.block_bytes(5), 5 * layout.head_bytes());
    }
  }
}

TEST(GpuHeadsTest, EveryQueryHeadHasOneKvHead) {
  for (int group : {1, 2, 5, 7, 40}) {
    for (int offset = 0; offset < group; ++offset) {
      for (int queries : {1, 3, 14, 40}) {
        const int kv = (queries + offset - 1) / group + 1;
        const GpuHeads heads = {queries, kv, 64, group, offset};
        int next = 0;
        for (int j = 0; j < kv; ++j) {
          EXPECT_EQ(heads.QueryBegin(j), next);
          EXPECT_GT(heads.QueryEnd(j), next);
          for (int i = next; i < heads.QueryEnd(j); ++i) EXPECT_EQ((i + offset) / group, j);
          next = heads.QueryEnd(j);
          EXPECT_LE(next - heads.QueryBegin(j), heads.MaxGroup());
        }
        EXPECT_EQ(next, queries);
      }
    }
  }
}

// The blocks of a row as the kernel walks them: each segment once, slots within bounds.
TEST(DecodePlanTest, EverySegmentIsWorkedOnOnce) {
  const GpuHeads heads = {
      .num_query_heads = 28, .num_kv_heads = 4, .head_dim = 128, .queries_per_kv = 7};
  int cut = 0;
  for (int rows : {1, 3, 64}) {
    for (int max_blocks : {1, 8, 9, 100, 2048}) {
      for (int wanted : {1, 100, 1056}) {
        for (int64_t floats : {int64_t{0}, int64_t{20000}, int64_t{8} << 20}) {
          const DecodePlan plan = PlanDecode(rows, heads, max_blocks, wanted, floats);
          EXPECT_GE(plan.blocks, 1);
          EXPECT_LE(
              int64_t{rows} * heads.num_query_heads * plan.slots * PartialFloats(heads.head_dim),
              floats);
          if (plan.blocks > 1) {
            EXPECT_LE(rows * heads.num_kv_heads * plan.blocks, wanted);
          }
          const int most = SegmentsOf(max_blocks * kKvBlockSize - 1);
          for (int segments = 1; segments <= most; segments += 1 + segments / 7) {
            const int run = RunLength(plan, segments), busy = BusyBlocks(plan, segments);
            ASSERT_GE(run, 1);
            ASSERT_LE(run, segments);
            ASSERT_LE(busy, plan.blocks);
            if (run < segments) {
              ASSERT_LE(segments - run + 1, plan.slots);
            }
            std::vector<int> seen(segments);
            for (int i = 0; i < run; ++i) ++seen[i];
            for (int block = 1; block < busy; ++block) {
              ASSERT_LT(run + block - 1, segments) << "an idle block is waited for";
              for (int i = run + block - 1; i < segments; i += plan.blocks - 1) ++seen[i];
            }
            ASSERT_EQ(std::count(seen.begin(), seen.end(), 1), segments);
            cut += run < segments;
          }
        }
      }
    }
  }
  EXPECT_GT(cut, 100);
}

TEST(PrefillTilesTest, EveryTileHasItsNumber) {
  Random random(5);
  for (int trial = 0; trial < 300; ++trial) {
    const int group = 1 + static_cast<int>(random.Below(40));
    std::vector<int64_t> starts = {0};
    for (int s = 0; s < 20; ++s)
      starts.push_back(starts.back() + random.Below(trial < 150 ? 5 : 400));
    for (int s = 0; s < 20; ++s) {
      const int64_t tiles =
          ((starts[s + 1] - starts[s]) * group + kPrefillQueries - 1) / kPrefillQueries;
      ASSERT_LE(FirstPrefillTile(starts[s], s, group) + tiles,
                FirstPrefillTile(starts[s + 1], s + 1, group));
    }
  }
}

template <typename Tile>
void ExpectRowsInDifferentBanks() {
  std::vector<int> owners(Tile::kBytes / 16);
  for (int row = 0; row < kGpuSegment; ++row) {
    for (int piece = 0; piece < Tile::kPieces; ++piece) {
      const int at = Tile::At(row, piece);
      ASSERT_EQ(at % 16, 0);
      ++owners.at(at / 16);
      // Kernels rely on this to add rows and pieces to what a lane has.
      ASSERT_EQ(Tile::At(row % 8, piece) + row / 8 * 8 * Tile::kRowBytes, at);
      ASSERT_EQ(
          (Tile::At(row, 0) ^ piece % Tile::kTurn * 16) + piece / Tile::kTurn * Tile::kTurn * 16,
          at);
    }
  }
  EXPECT_EQ(std::count(owners.begin(), owners.end(), 1), Tile::kBytes / 16);
  for (int row = 0; row < kGpuSegment; row += 8) {
    for (int piece = 0; piece < Tile::kPieces; ++piece) {
      std::vector<int> banks(8);  // of 16 bytes
      for (int i = 0; i < 8; ++i) ++banks[Tile::At(row + i, piece) / 16 % 8];
      EXPECT_EQ(std::count(banks.begin(), banks.end(), 1), 8);
    }
  }
}

TEST(SharedMemoryTest, EightRowsLieInDifferentBanks) {
  ExpectRowsInDifferentBanks<KvTile<64, false>>();
  ExpectRowsInDifferentBanks<KvTile<64, true>>();
  ExpectRowsInDifferentBanks<KvTile<128, false>>();
  ExpectRowsInDifferentBanks<KvTile<128, true>>();
}

TEST(SharedMemoryTest, FitsTheSmallestGpu) {
  constexpr int kSm86 = 99 * 1024;
  EXPECT_LE((SegmentMemory<128, false>::kBytes) + DecodeExchange::kBytes, kSm86);
  EXPECT_LE((SegmentMemory<128, true>::kBytes) + DecodeExchange::kBytes, kSm86);
  EXPECT_LE((PrefillMemory<128, false>::kBytes), kSm86);
  EXPECT_LE((PrefillMemory<128, true>::kBytes), kSm86);
  // Three blocks of decode on sm_90, two on sm_80; each costs 1 KiB more.
  EXPECT_LE(3 * ((SegmentMemory<128, false>::kBytes) + DecodeExchange::kBytes + 1024), 228 * 1024);
  EXPECT_LE(2 * ((SegmentMemory<128, false>::kBytes) + DecodeExchange::kBytes + 1024), 164 * 1024);
}

}  // namespace
}  // namespace qwenserve
