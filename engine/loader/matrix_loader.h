#ifndef QWENSERVE_ENGINE_LOADER_MATRIX_LOADER_H_
#define QWENSERVE_ENGINE_LOADER_MATRIX_LOADER_H_

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/loader/weight_choice.h"
#include "engine/loader/weight_sources.h"
#include "engine/model/weight_map.h"
#include "kernels/backend.h"

namespace qwenserve {

// How a float matrix is rounded while loading.
struct Rounding {
  WeightFormat format = WeightFormat::kInt8;
  int64_t group_size = 0;
};

// Nothing where floats stay as they are. The embedding and the head are rounded per row to int8: a
// quarter of a small model's bytes, but the part where errors show most.
std::optional<Rounding> RoundingFor(WeightChoice choice, WeightField field);

// Loads one matrix of a rank from the parts that are stacked in it. `padded_rows`: how many rows it
// is to have at least; missing ones are zero. `on_rows` (may be null) as in StackedRows; it is not
// called for floats that stay as they are.
//
// Parts that have no common quantised form (one is float and stays it, or the groups of their
// inputs differ) become one f32 matrix of exactly the checkpoint's values.
absl::StatusOr<LinearWeight> LoadMatrix(absl::Span<const WeightSource> sources, WeightChoice choice,
                                        int64_t padded_rows, Backend& backend,
                                        const std::function<void(int64_t)>& on_rows);

// Bytes that LoadMatrix will hold, rows rounded up to 16; zero points counted even if all turn out
// to be the middle.
int64_t LoadedMatrixBytes(absl::Span<const WeightSource> sources, WeightChoice choice,
                          int64_t padded_rows);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_MATRIX_LOADER_H_
