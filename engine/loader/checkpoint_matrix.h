#ifndef QWENSERVE_ENGINE_LOADER_CHECKPOINT_MATRIX_H_
#define QWENSERVE_ENGINE_LOADER_CHECKPOINT_MATRIX_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// Room for some rows of a CheckpointMatrix.
struct MatrixRows {
  uint8_t* codes = nullptr;    // row r at codes + r * stride: the wanted inputs, in order
  int64_t stride = 0;          // at least the number of wanted inputs
  uint16_t* scales = nullptr;  // [rows, num_groups], fp16 bits
  uint8_t* zeros = nullptr;    // [rows, num_groups]
};

// A whole matrix [out, in] of a checkpoint as quantised numbers, in the order of its inputs:
// weight[o][i] = scale[o][g] * (code[o][i] - zero[o][g]) with g = groups()[i]. One implementation
// per checkpoint style. Immutable; read by several threads at once.
class CheckpointMatrix {
 public:
  virtual ~CheckpointMatrix() = default;

  WeightFormat format() const { return format_; }  // kInt8 or kInt4
  // Of each input, 0 .. num_groups() - 1.
  const std::vector<int32_t>& groups() const { return groups_; }
  int64_t num_groups() const { return num_groups_; }
  // Whether some zero of these rows is not the middle of the codes (8 or 128).
  virtual bool HasZeros(Range rows) const = 0;

  // Fills codes of `inputs` and, for the groups that they are of, scales and zeros (which are the
  // middle where there are none in the file). The error names file, tensor and numbers.
  virtual absl::Status ReadRows(Range rows, Range inputs, const MatrixRows& out) const = 0;

 protected:
  CheckpointMatrix(WeightFormat format, std::vector<int32_t> groups, int64_t num_groups)
      : format_(format), groups_(std::move(groups)), num_groups_(num_groups) {}

 private:
  const WeightFormat format_;
  const std::vector<int32_t> groups_;
  const int64_t num_groups_;
};

// Groups of `group_size` neighbours, the last one perhaps shorter.
inline std::vector<int32_t> NeighbourGroups(int64_t inputs, int64_t group_size) {
  std::vector<int32_t> groups(static_cast<size_t>(inputs));
  for (int64_t i = 0; i < inputs; ++i) groups[i] = static_cast<int32_t>(i / group_size);
  return groups;
}

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_CHECKPOINT_MATRIX_H_
