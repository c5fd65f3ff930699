#ifndef QWENSERVE_ENGINE_LOADER_PACKED_GROUPS_H_
#define QWENSERVE_ENGINE_LOADER_PACKED_GROUPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/loader/checkpoint_matrix.h"
#include "engine/loader/quantized_module.h"

namespace qwenserve {

// Scales and zeros of a quantised module, which GPTQ and AWQ keep alike: scales [groups, out],
// qzeros [groups, out * bits / 32] in words.
class PackedGroups {
 public:
  // `added`: to each zero as stored. `interleaved`: the order of AWQ's words.
  PackedGroups(const QuantizedTensors& tensors, int64_t bits, int added, bool interleaved)
      : tensors_(tensors), bits_(bits), added_(added), interleaved_(interleaved) {}

  bool HasZeros(Range rows) const;
  // Fills scales and zeros of groups first .. last of these rows (outputs). INVALID_ARGUMENT for a
  // scale that is not finite or a zero beyond the codes.
  absl::Status Read(Range rows, int64_t first, int64_t last, int64_t num_groups,
                    const MatrixRows& out) const;

 private:
  int64_t outputs() const { return tensors_.scales->shape[1]; }
  int32_t Zero(int64_t group, int64_t output) const;

  const QuantizedTensors tensors_;
  const int64_t bits_;
  const int added_;
  const bool interleaved_;
};

// Where output o % 8 of an AWQ word is, in numbers of 4 bits from the lowest.
inline constexpr int kAwqPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_PACKED_GROUPS_H_
