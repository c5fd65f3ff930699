// What must be true of the layouts and plans of GPU products, whatever computes with them.
#include <gtest/gtest.h>

#include <set>
#include <utility>
#include <vector>

#include "kernels/cuda/gemm/linear_plan.h"

namespace qwenserve {
namespace {

constexpr FragmentFormat kFormats[] = {FragmentFormat::kBf16, FragmentFormat::kF16,
                                       FragmentFormat::kInt8, FragmentFormat::kInt4};

static_assert(UnitInputs(FragmentFormat::kBf16) == 16 && UnitInputs(FragmentFormat::kInt8) == 32 &&
              UnitInputs(FragmentFormat::kInt4) == 64);

TEST(FragmentLayoutTest, AUnitHoldsEachElementOnceAndSaysWhere) {
  for (FragmentFormat format : kFormats) {
    std::set<std::pair<int, int>> seen;
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int index = 0; index < LaneElements(format); ++index) {
        const UnitElement element = ElementOfLane(format, lane, index);
        ASSERT_GE(element.row, 0);
        ASSERT_LT(element.row, kTileRows);
        ASSERT_GE(element.input, 0);
        ASSERT_LT(element.input, UnitInputs(format));
        EXPECT_TRUE(seen.insert({element.row, element.input}).second);
        const UnitSlot slot = SlotOfElement(format, element.row, element.input);
        EXPECT_EQ(slot.lane, lane);
        EXPECT_EQ(slot.index, index);
      }
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(kTileRows * UnitInputs(format)));
  }
}

// The operand as the PTX ISA describes it, written down once more.
TEST(FragmentLayoutTest, ALanesRegistersAreThoseOfTheTensorCores) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, t = lane % 4;
    for (int reg = 0; reg < 4; ++reg) {
      for (int half = 0; half < 2; ++half) {
        const int row = group + (reg == 1 || reg == 3 ? 8 : 0);
        const int input = 2 * t + half + (reg >= 2 ? 8 : 0);
        EXPECT_EQ(SlotOfElement(FragmentFormat::kBf16, row, input).index, 2 * reg + half);
        for (int step = 0; step < 4; ++step) {
          // Nibbles `reg` and `reg + 4` of word `step`.
          const UnitSlot slot = SlotOfElement(FragmentFormat::kInt4, row, step * 16 + input);
          EXPECT_EQ(slot.lane, lane);
          EXPECT_EQ(slot.index, step * 8 + reg + 4 * half);
        }
        for (int step = 0; step < 2; ++step) {
          EXPECT_EQ(SlotOfElement(FragmentFormat::kInt8, row, step * 16 + input).index,
                    step * 8 + 2 * reg + half);
        }
      }
    }
  }
}

TEST(FragmentLayoutTest, UnitsFillTheWeightWithoutGapsOrOverlap) {
  for (FragmentFormat format : kFormats) {
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{1, 1}, {16, 64}, {33, 300}}) {
      const int64_t granules = GranulesOf(format, in);
      std::set<int64_t> offsets;
      for (int64_t row = 0; row < TilesOf(out) * kTileRows; row += kTileRows) {
        for (int64_t i = 0; i < granules * GranuleInputs(format); i += UnitInputs(format)) {
          const int64_t at = UnitOffset(format, granules, row, i);
          EXPECT_EQ(at % kUnitBytes, 0);
          EXPECT_TRUE(offsets.insert(at).second);
          EXPECT_EQ(UnitOffset(format, granules, row + 15, i + UnitInputs(format) - 1), at);
        }
      }
      EXPECT_EQ(*offsets.begin(), 0);
      EXPECT_EQ(*offsets.rbegin() + kUnitBytes, FragmentBytes(format, out, in));
      EXPECT_EQ(static_cast<int64_t>(offsets.size()) * kUnitBytes, FragmentBytes(format, out, in));
    }
  }
}

TEST(LinearPlanTest, GroupsAreFoundByMultiplication) {
  for (int entries : {1, 2, 3, 4, 5, 7, 8, 32, 100, 592, 928, 4000, 32767}) {
    for (int entry = 0; entry < (1 << 15); ++entry) {
      ASSERT_EQ(GroupOfEntry(entry, GroupMagic(entries)), entry / entries) << entries;
    }
  }
}

// Rows of all products of the family, cut over 1, 2, 4 and 8 ranks as whole groups: [out, in].
std::vector<std::pair<int64_t, int64_t>> QwenShapes() {
  std::vector<std::pair<int64_t, int64_t>> shapes;
  struct Size {
    int64_t hidden, inter, heads, kv_heads, vocab;
  };
  for (const Size& s : {Size{1024, 2816, 16, 16, 151936}, Size{2048, 5504, 16, 16, 151936},
                        Size{4096, 11008, 32, 32, 151936}, Size{5120, 13696, 40, 40, 152064},
                        Size{8192, 24576, 64, 64, 152064}, Size{896, 4864, 14, 2, 151936},
                        Size{3584, 18944, 28, 4, 152064}, Size{8192, 29568, 64, 8, 152064}}) {
    for (int64_t ranks : {1, 2, 4, 8}) {
      const int64_t heads = CeilDiv(s.heads, ranks), kv = CeilDiv(s.kv_heads, ranks);
      // The larger and the smaller share, in groups of 128: 14B on two ranks is 54 + 53.
      for (int64_t groups : {CeilDiv(s.inter / 128, ranks), s.inter / 128 / ranks}) {
        shapes.push_back({2 * groups * 128, s.hidden});
        shapes.push_back({s.hidden, groups * 128});
      }
      shapes.push_back({(heads + 2 * kv) * 128, s.hidden});
      shapes.push_back({s.hidden, heads * 128});
      shapes.push_back({s.vocab / ranks, s.hidden});
    }
  }
  return shapes;
}

TEST(LinearPlanTest, PartsCoverTheInputsInOrder) {
  for (FragmentFormat format : kFormats) {
    for (const auto& [out, in] : QwenShapes()) {
      const LinearShape shape = {format, out, in};
      const int granules = static_cast<int>(GranulesOf(format, in)), parts = PartsOf(shape);
      EXPECT_TRUE(parts >= kSkinnyWarps && parts <= kMaxParts && parts % kSkinnyWarps == 0);
      EXPECT_EQ(PartBegin(granules, parts, 0), 0);
      EXPECT_EQ(PartBegin(granules, parts, parts), granules);
      for (int p = 0; p < parts; ++p) {
        const int size = PartBegin(granules, parts, p + 1) - PartBegin(granules, parts, p);
        EXPECT_TRUE(size == granules / parts || size == granules / parts + 1);
      }
    }
  }
  // In quantised weights of groups of 32 to 128 a cut is never within a group.
  EXPECT_EQ(GranuleInputs(FragmentFormat::kInt4) % 128, 0);
  EXPECT_EQ(GranuleInputs(FragmentFormat::kInt8) % 128, 0);
}

// What a grid covers: tiles, rows of x and parts, each the same number of times.
void ExpectCovered(const LinearShape& shape, int64_t rows, bool paired, int num_sms) {
  const LinearPlan plan = PlanLinear(shape, rows, paired, num_sms);
  const int64_t tiles = TilesOf(shape.out_features);
  EXPECT_EQ(plan.parts, PartsOf(shape));
  EXPECT_LE(plan.shared_bytes, kSharedBudget);
  EXPECT_LT(plan.grid_y, 65536u);
  int64_t block_tiles = kWideTiles, block_rows = 0;
  if (plan.wide) {
    block_rows = kWideRows[plan.variant];
    EXPECT_TRUE(HasWide(shape.format, kWideRows[plan.variant]));
    EXPECT_EQ(int64_t{plan.grid_z} * plan.parts_per_block, plan.parts);
    EXPECT_EQ(plan.grid_x, CeilDiv(rows, block_rows));
    EXPECT_EQ(plan.grid_y, CeilDiv(tiles, block_tiles));
  } else {
    block_tiles = kSkinnyShapes[plan.variant].tiles;
    EXPECT_TRUE(HasSkinny(shape.format, plan.variant));
    EXPECT_GE(kSkinnyShapes[plan.variant].columns * 8, rows);
    EXPECT_EQ(plan.grid_x, CeilDiv(tiles, block_tiles));
    EXPECT_EQ(plan.grid_y * kSkinnyWarps, static_cast<uint32_t>(plan.parts));
    EXPECT_EQ(plan.grid_z, 1u);
  }
  EXPECT_TRUE(!paired || block_tiles % 2 == 0);
  // Whatever one block has of an output is its own; else there is room for all parts.
  const bool shared = plan.wide ? plan.grid_z > 1 : plan.grid_y > 1;
  const int64_t elements = plan.wide ? WideElements(kWideRows[plan.variant])
                                     : SkinnyElements(kSkinnyShapes[plan.variant]);
  const int64_t outputs = plan.wide ? int64_t{plan.grid_x} * plan.grid_y : plan.grid_x;
  EXPECT_EQ(plan.partial_floats, shared ? outputs * plan.parts * elements : 0);
  EXPECT_EQ(plan.arrivals, shared ? outputs : 0);
  const LinearWorkspace workspace = WorkspaceOf(shape, num_sms);
  EXPECT_LE(plan.partial_floats, workspace.partial_floats);
  EXPECT_LE(plan.arrivals, workspace.arrivals);
  // A GPU's multiprocessors all get something where there is that much to do, and partial sums stay
  // in its second cache.
  EXPECT_LE(workspace.partial_floats * 4, int64_t{16} << 20);
  if (num_sms == 132 && !plan.wide && GranulesOf(shape.format, shape.inputs) >= 64) {
    EXPECT_GE(int64_t{plan.grid_x} * plan.grid_y, plan.variant == 0 ? 100 : 64);
  }
}

TEST(LinearPlanTest, EveryTileAndPartIsSomebodys) {
  for (FragmentFormat format : kFormats) {
    for (const auto& [out, in] : QwenShapes()) {
      for (int64_t rows : {1, 8, 9, 16, 17, 32, 33, 64, 65, 100, 128, 129, 512, 2048, 4097}) {
        for (int num_sms : {1, 84, 108, 132}) {
          ExpectCovered({format, out, in}, rows, false, num_sms);
          ExpectCovered({format, out, in}, rows, true, num_sms);
        }
      }
    }
  }
}

// So that a row's bits don't depend on the machine or on the rows beside it.
TEST(LinearPlanTest, ThePartsOfSomeShapesArePinned) {
  EXPECT_EQ(PartsOf({FragmentFormat::kBf16, 4608, 3584}), 4);
  EXPECT_EQ(PartsOf({FragmentFormat::kInt4, 3584, 18944}), 4);
  EXPECT_EQ(PartsOf({FragmentFormat::kBf16, 1280, 8192}), 8);
  EXPECT_EQ(PartsOf({FragmentFormat::kInt4, 1280, 8192}), 8);
  EXPECT_EQ(PartsOf({FragmentFormat::kBf16, 896, 4864}), 16);
  EXPECT_EQ(PartsOf({FragmentFormat::kInt4, 896, 4864}), 8);
  EXPECT_EQ(PartsOf({FragmentFormat::kBf16, 16, 64}), 4);
}

}  // namespace
}  // namespace qwenserve
