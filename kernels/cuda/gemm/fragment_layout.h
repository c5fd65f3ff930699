#ifndef QWENSERVE_KERNELS_CUDA_GEMM_FRAGMENT_LAYOUT_H_
#define QWENSERVE_KERNELS_CUDA_GEMM_FRAGMENT_LAYOUT_H_

#include <cstdint>

// How a weight matrix lies in a GPU's memory: as operands of the tensor cores.
//
// A weight is the left operand (16 outputs x 16 inputs, "a" of MmaBf16 in simt/device_cuda.h). A
// unit is 512 contiguous bytes: 16 bytes for each lane of a warp, which are the lane's fragments of
// one step of 16 inputs (bf16, fp16), two (int8) or four (int4). So a warp reads a unit with one
// load of 512 bytes in a row, and what a lane has got needs no exchange, only unpacking.
//
//   weight:  [tiles of 16 outputs][units, inputs ascending], the inputs of a tile filled up with
//            zeros to whole granules, the last tile with rows of zeros
//   scales:  [tiles][groups][16] fp16 bits;  zero points: the same, bytes
namespace qwenserve {

enum class FragmentFormat : uint8_t { kBf16, kF16, kInt8, kInt4 };
inline constexpr int kNumFragmentFormats = 4;

inline constexpr int kTileRows = 16;
inline constexpr int kLanes = 32;
inline constexpr int kLaneBytes = 16;
inline constexpr int kUnitBytes = kLanes * kLaneBytes;

constexpr bool IsQuantizedFragment(FragmentFormat format) {
  return format == FragmentFormat::kInt8 || format == FragmentFormat::kInt4;
}
constexpr int ElementBits(FragmentFormat format) {
  return format == FragmentFormat::kInt4 ? 4 : format == FragmentFormat::kInt8 ? 8 : 16;
}
constexpr int LaneElements(FragmentFormat format) { return kLaneBytes * 8 / ElementBits(format); }
constexpr int UnitInputs(FragmentFormat format) {
  return kLanes * LaneElements(format) / kTileRows;
}
// Inputs that kernels take at once: what is copied to shared memory in one go, and what the inputs
// of a product are cut at.
constexpr int GranuleInputs(FragmentFormat format) {
  return IsQuantizedFragment(format) ? 128 : 64;
}
// Bytes of one tile.
constexpr int GranuleBytes(FragmentFormat format) {
  return GranuleInputs(format) / UnitInputs(format) * kUnitBytes;
}

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t TilesOf(int64_t out_features) { return CeilDiv(out_features, kTileRows); }
constexpr int64_t GranulesOf(FragmentFormat format, int64_t inputs) {
  return CeilDiv(inputs, GranuleInputs(format));
}
constexpr int64_t FragmentBytes(FragmentFormat format, int64_t out_features, int64_t inputs) {
  return TilesOf(out_features) * GranulesOf(format, inputs) * GranuleBytes(format);
}
// Elements of the scales, and of the zero points.
constexpr int64_t ScaleCount(int64_t out_features, int64_t groups) {
  return TilesOf(out_features) * groups * kTileRows;
}

// One element of a unit: its output in the tile and its input in the unit.
struct UnitElement {
  int row = 0;
  int input = 0;
};

// What a lane's element number `index` is; the number counts elements from the lowest bit of the 16
// bytes.
//
// Register r of a step's four holds the inputs 2t, 2t + 1 (r >= 2: + 8) of output g (odd r: + 8),
// g = lane / 4, t = lane % 4. bf16 and fp16: the four registers. int8: word 2s + r / 2 of the
// step s, bytes 2 (r % 2) and the next. int4: word s, nibbles r and r + 4, so that
// (word >> 4r) & 0x000f000f is the pair.
constexpr UnitElement ElementOfLane(FragmentFormat format, int lane, int index) {
  int step = 0, reg = 0, half = 0;
  switch (format) {
    case FragmentFormat::kBf16:
    case FragmentFormat::kF16:
      reg = index / 2;
      half = index % 2;
      break;
    case FragmentFormat::kInt8:
      step = index / 8;
      reg = index % 8 / 2;
      half = index % 2;
      break;
    case FragmentFormat::kInt4:
      step = index / 8;
      reg = index % 4;
      half = index % 8 / 4;
      break;
  }
  return {lane / 4 + reg % 2 * 8, step * 16 + reg / 2 * 8 + lane % 4 * 2 + half};
}

// Where an element is.
struct UnitSlot {
  int lane = 0;
  int index = 0;
};

constexpr UnitSlot SlotOfElement(FragmentFormat format, int row, int input) {
  const int step = input / 16, reg = row / 8 + input % 16 / 8 * 2, half = input % 2;
  const int lane = row % 8 * 4 + input % 8 / 2;
  switch (format) {
    case FragmentFormat::kInt8:
      return {lane, step * 8 + reg * 2 + half};
    case FragmentFormat::kInt4:
      return {lane, step * 8 + reg + half * 4};
    case FragmentFormat::kBf16:
    case FragmentFormat::kF16:
      break;
  }
  return {lane, reg * 2 + half};
}

// Byte in the weight of the unit with output `row` and input `input`.
constexpr int64_t UnitOffset(FragmentFormat format, int64_t granules, int64_t row, int64_t input) {
  return row / kTileRows * granules * GranuleBytes(format) +
         input / UnitInputs(format) * kUnitBytes;
}

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GEMM_FRAGMENT_LAYOUT_H_
