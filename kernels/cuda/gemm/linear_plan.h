#ifndef QWENSERVE_KERNELS_CUDA_GEMM_LINEAR_PLAN_H_
#define QWENSERVE_KERNELS_CUDA_GEMM_LINEAR_PLAN_H_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/gemm/fragment_layout.h"

// How a product is cut into blocks. Host and device; tests/kernels/cuda/gemm_layout_test.cc holds
// what must be true of it.
//
// The inputs are cut into parts, as a function of the weight's shape and format alone. The sum of a
// part is one chain, and the parts' sums are added in ascending order, whichever block or warp had
// them: so a row has the same bits in every kernel and beside any number of others (README.md).
namespace qwenserve {

// Of one weight.
struct LinearShape {
  FragmentFormat format = FragmentFormat::kBf16;
  int64_t out_features = 0;
  int64_t inputs = 0;  // as packed
};

// What a block of every supported GPU can have (sm_86 and sm_89 have the least).
inline constexpr int kSharedBudget = 99 * 1024;

inline constexpr int kMaxParts = 16;

// A part has at least this many granules, where more than kSkinnyParts are made.
inline constexpr int64_t kMinPartGranules = 4;

// --- Skinny: few rows -------------------------------------------------------------------------
//
// A block of four warps has `tiles` tiles and `columns` * 8 rows of x; each warp has another part.
inline constexpr int kSkinnyWarps = 4;
inline constexpr int kSkinnyThreads = kSkinnyWarps * kLanes;

struct SkinnyShape {
  int tiles = 1;
  int columns = 1;
};
inline constexpr SkinnyShape kSkinnyShapes[] = {{1, 1}, {2, 1}, {2, 2}, {2, 4}, {4, 1}};
inline constexpr int kNumSkinnyShapes = 5;
// x comes again for each block's tiles: 32 rows of it are three (int8) to five times (int4) the
// bytes of the weights, more than the second cache gives. Wide blocks have more tiles. And int4 is
// limited by instructions, of which more tiles share more.
constexpr int64_t MaxSkinnyRows(FragmentFormat format) {
  return IsQuantizedFragment(format) ? 16 : 32;
}
constexpr bool HasSkinny(FragmentFormat format, int variant) {
  return variant == 4 ? format == FragmentFormat::kInt4
                      : kSkinnyShapes[variant].columns * 8 <= MaxSkinnyRows(format);
}

// Scales and zero points of a tile for one granule: an entry per 32 inputs.
inline constexpr int kEntryInputs = 32;
constexpr int ScaleEntries(FragmentFormat format) {
  return IsQuantizedFragment(format) ? GranuleInputs(format) / kEntryInputs : 0;
}
constexpr int ScaleBytes(FragmentFormat format) { return ScaleEntries(format) * kTileRows * 2; }
constexpr int ZeroBytes(FragmentFormat format) { return ScaleEntries(format) * kTileRows; }

// A granule of `tiles` tiles and of `rows` rows of x in shared memory: weights, x, scales, zeros.
struct StageLayout {
  int x = 0, scales = 0, zeros = 0, bytes = 0;  // offsets, and the size
};
constexpr StageLayout StageOf(FragmentFormat format, int tiles, int rows) {
  StageLayout stage;
  stage.x = tiles * GranuleBytes(format);
  stage.scales = stage.x + rows * GranuleInputs(format) * 2;
  stage.zeros = stage.scales + tiles * ScaleBytes(format);
  stage.bytes = stage.zeros + tiles * ZeroBytes(format);
  return stage;
}

constexpr StageLayout SkinnyStage(FragmentFormat format, SkinnyShape shape) {
  return StageOf(format, shape.tiles, shape.columns * 8);
}
// Stages of each warp's ring.
constexpr int SkinnyStages(FragmentFormat format, SkinnyShape shape) {
  return std::clamp(kSharedBudget / (kSkinnyWarps * SkinnyStage(format, shape).bytes), 2, 4);
}
constexpr int SkinnySharedBytes(FragmentFormat format, SkinnyShape shape) {
  return kSkinnyWarps * SkinnyStages(format, shape) * SkinnyStage(format, shape).bytes;
}
// Sums that a block hands over for each part.
constexpr int SkinnyElements(SkinnyShape shape) {
  return shape.tiles * kTileRows * shape.columns * 8;
}

// --- Wide: any number of rows -----------------------------------------------------------------
//
// A block of 4 x 2 warps has 8 tiles and 64 or 128 rows of x; a warp 2 tiles and half of the rows.
// Its parts come one after the other.
inline constexpr int kWideThreads = 256;
inline constexpr int kWideTiles = 8;
inline constexpr int kWideWarpTiles = 2;
inline constexpr int kWideWarpsAlongRows = 2;
inline constexpr int kWideRows[] = {64, 128};
inline constexpr int kNumWideShapes = 2;
// Columns of 8 rows of x that a warp has.
constexpr int WideColumns(int rows) { return rows / 8 / kWideWarpsAlongRows; }
// The larger one needs registers that only bf16 leaves.
constexpr bool HasWide(FragmentFormat format, int rows) {
  return rows == 64 || format == FragmentFormat::kBf16;
}
// Quantised weights have sums of groups in registers, and so the totals of parts in shared memory.
constexpr int WideTotalBytes(FragmentFormat format, int rows) {
  return IsQuantizedFragment(format) ? kWideTiles * kTileRows * rows * 4 : 0;
}
constexpr StageLayout WideStage(FragmentFormat format, int rows) {
  return StageOf(format, kWideTiles, rows);
}
constexpr int WideStages(FragmentFormat format, int rows) {
  return std::clamp((kSharedBudget - WideTotalBytes(format, rows)) / WideStage(format, rows).bytes,
                    2, 4);
}
constexpr int WideSharedBytes(FragmentFormat format, int rows) {
  return WideTotalBytes(format, rows) + WideStages(format, rows) * WideStage(format, rows).bytes;
}
constexpr int WideElements(int rows) { return kWideTiles * kTileRows * rows; }

// --- Plans ------------------------------------------------------------------------------------

// Four parts, one for each warp of a skinny block; more where there are too few outputs to fill a
// GPU of some 130 multiprocessors with four warps per tile.
constexpr int PartsOf(const LinearShape& shape) {
  const int64_t tiles = TilesOf(shape.out_features);
  const int64_t granules = GranulesOf(shape.format, shape.inputs);
  int parts = kSkinnyWarps;
  while (parts < kMaxParts && tiles * parts < 512 && granules / (2 * parts) >= kMinPartGranules) {
    parts *= 2;
  }
  return parts;
}

// Sums that wide blocks may hand over: they are to stay in the second cache.
inline constexpr int64_t kMaxPartialFloats = int64_t{4} << 20;

// The first granule of a part; that of part number `parts` is the end.
constexpr int PartBegin(int granules, int parts, int part) {
  return static_cast<int>(static_cast<uint32_t>(granules) * static_cast<uint32_t>(part) /
                          static_cast<uint32_t>(parts));
}

struct LinearPlan {
  bool wide = false;
  int variant = 0;  // of kSkinnyShapes or kWideRows
  uint32_t grid_x = 1, grid_y = 1, grid_z = 1;
  int shared_bytes = 0;
  int parts = 0;
  int parts_per_block = 0;
  // Where several blocks share the parts of an output: floats for their sums, and counters.
  int64_t partial_floats = 0;
  int64_t arrivals = 0;
};

// `paired`: tiles come in pairs, of which one warp needs both (gate and up).
constexpr LinearPlan PlanSkinny(const LinearShape& shape, int64_t rows, bool paired, int num_sms) {
  LinearPlan plan;
  const int64_t tiles = TilesOf(shape.out_features);
  if (rows > 16) {
    plan.variant = 3;
  } else if (rows > 8) {
    plan.variant = 2;
  } else if (HasSkinny(shape.format, 4)) {
    plan.variant = tiles >= 8 * num_sms ? 4 : paired || tiles >= 2 * num_sms ? 1 : 0;
  } else {
    plan.variant = paired || tiles >= 4 * num_sms ? 1 : 0;
  }
  const SkinnyShape skinny = kSkinnyShapes[plan.variant];
  plan.parts = PartsOf(shape);
  plan.parts_per_block = kSkinnyWarps;
  plan.grid_x = static_cast<uint32_t>(CeilDiv(tiles, skinny.tiles));
  plan.grid_y = static_cast<uint32_t>(plan.parts / kSkinnyWarps);
  plan.shared_bytes = SkinnySharedBytes(shape.format, skinny);
  if (plan.grid_y > 1) {
    plan.partial_floats = int64_t{plan.grid_x} * plan.parts * SkinnyElements(skinny);
    plan.arrivals = plan.grid_x;
  }
  return plan;
}

constexpr LinearPlan PlanWide(const LinearShape& shape, int64_t rows, int num_sms) {
  LinearPlan plan;
  plan.wide = true;
  const int64_t row_blocks = CeilDiv(TilesOf(shape.out_features), kWideTiles);
  const bool large =
      HasWide(shape.format, kWideRows[1]) && row_blocks * CeilDiv(rows, kWideRows[1]) >= num_sms;
  plan.variant = large ? 1 : 0;
  const int block_rows = kWideRows[plan.variant];
  plan.parts = PartsOf(shape);
  plan.grid_x = static_cast<uint32_t>(CeilDiv(rows, block_rows));
  plan.grid_y = static_cast<uint32_t>(row_blocks);
  const int64_t blocks = row_blocks * plan.grid_x;
  const int64_t partial_floats = blocks * plan.parts * WideElements(block_rows);
  while (partial_floats <= kMaxPartialFloats && plan.grid_z < static_cast<uint32_t>(plan.parts) &&
         blocks * plan.grid_z * 2 <= 2 * num_sms) {
    plan.grid_z *= 2;
  }
  plan.parts_per_block = plan.parts / static_cast<int>(plan.grid_z);
  plan.shared_bytes = WideSharedBytes(shape.format, block_rows);
  if (plan.grid_z > 1) {
    plan.partial_floats = partial_floats;
    plan.arrivals = blocks;
  }
  return plan;
}

constexpr LinearPlan PlanLinear(const LinearShape& shape, int64_t rows, bool paired, int num_sms) {
  return rows <= MaxSkinnyRows(shape.format) ? PlanSkinny(shape, rows, paired, num_sms)
                                             : PlanWide(shape, rows, num_sms);
}

// The most that products with this weight need, for any number of rows.
struct LinearWorkspace {
  int64_t partial_floats = 0;
  int64_t arrivals = 0;
};
constexpr LinearWorkspace WorkspaceOf(const LinearShape& shape, int num_sms) {
  LinearWorkspace most;
  const auto add = [&](const LinearPlan& plan) {
    most.partial_floats = std::max(most.partial_floats, plan.partial_floats);
    most.arrivals = std::max(most.arrivals, plan.arrivals);
  };
  for (int64_t rows = 8; rows <= MaxSkinnyRows(shape.format); rows *= 2) {
    for (bool paired : {false, true}) add(PlanSkinny(shape, rows, paired, num_sms));
  }
  // With more blocks than this nothing is cut.
  const int64_t row_blocks = CeilDiv(TilesOf(shape.out_features), kWideTiles);
  for (int64_t rows = kWideRows[0]; row_blocks * CeilDiv(rows, kWideRows[1]) <= num_sms;
       rows += kWideRows[0]) {
    add(PlanWide(shape, rows, num_sms));
  }
  return most;
}

// --- Groups -----------------------------------------------------------------------------------

// entry / group_entries as a multiplication: (entry * magic) >> 31, exact for both below 2^15.
constexpr uint32_t GroupMagic(int64_t group_entries) {
  return static_cast<uint32_t>(CeilDiv(int64_t{1} << 31, group_entries));
}
constexpr int GroupOfEntry(int entry, uint32_t magic) {
  return static_cast<int>((static_cast<uint64_t>(entry) * magic) >> 31);
}

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GEMM_LINEAR_PLAN_H_
