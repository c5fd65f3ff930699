#include "kernels/cuda/sample/context_counts.h"

#include <map>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

std::map<int32_t, int32_t> MapOf(absl::Span<const ContextId> ids) {
  std::map<int32_t, int32_t> map;
  for (const ContextId& id : ids) EXPECT_TRUE(map.emplace(id.id, id.count).second);
  return map;
}
using Map = std::map<int32_t, int32_t>;

TEST(ContextCounts, DistinctIdsAndHowOftenTheyWereGenerated) {
  ContextCounts counts;
  const std::vector<int32_t> ids = {5, 5, 9, 9, 9, 2};
  EXPECT_EQ(MapOf(counts.Of(ids, 3)), (Map{{5, 0}, {9, 2}, {2, 1}}));
  EXPECT_EQ(MapOf(counts.Of(ids, 0)), (Map{{5, 2}, {9, 3}, {2, 1}}));
  EXPECT_EQ(MapOf(counts.Of(ids, 6)), (Map{{5, 0}, {9, 0}, {2, 0}}));
  EXPECT_TRUE(counts.Of({}, 0).empty());
}

TEST(ContextCounts, AStepCountsOnlyWhatIsNew) {
  ContextCounts counts;
  std::vector<int32_t> ids(1000, 1);
  ids.reserve(2000);
  counts.Of(ids, 10);
  const int64_t before = counts.counted();
  for (int i = 0; i < 500; ++i) {
    ids.push_back(i);
    counts.EndStep();
    EXPECT_EQ(counts.Of(ids, 10).size(), static_cast<size_t>(i < 2 ? 2 : i + 1));
  }
  EXPECT_EQ(counts.counted() - before, 500);
}

TEST(ContextCounts, OtherIdsInTheSamePlaceAreCountedAnew) {
  ContextCounts counts;
  std::vector<int32_t> ids = {1, 2, 3};
  counts.Of(ids, 0);
  ids[0] = 2;
  EXPECT_EQ(MapOf(counts.Of(ids, 0)), (Map{{2, 2}, {3, 1}}));
  // A shorter context, of which the remembered one was a continuation.
  EXPECT_EQ(MapOf(counts.Of(absl::MakeConstSpan(ids).first(2), 0)), (Map{{2, 2}}));
}

TEST(ContextCounts, ForgetsWhatNobodyAsksFor) {
  ContextCounts counts;
  const std::vector<int32_t> ids = {1, 2, 3};
  counts.Of(ids, 0);
  counts.EndStep();
  counts.Of(ids, 0);
  EXPECT_EQ(counts.counted(), 3);
  for (int i = 0; i < 100; ++i) counts.EndStep();
  counts.Of(ids, 0);
  EXPECT_EQ(counts.counted(), 6);
}

}  // namespace
}  // namespace qwenserve
