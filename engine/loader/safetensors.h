#ifndef QWENSERVE_ENGINE_LOADER_SAFETENSORS_H_
#define QWENSERVE_ENGINE_LOADER_SAFETENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace qwenserve {

// The largest header that is read: the limit of the format's own library.
inline constexpr int64_t kMaxSafetensorsHeader = 100'000'000;

// One entry of a safetensors header. `offset` counts from the start of the file.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as in the file: BF16, F16, F32, I64, ...
  std::vector<int64_t> shape;
  int64_t offset = 0;
  int64_t bytes = 0;
};

// Reads the header of a safetensors file (8 bytes length, little endian; a JSON object of name ->
// {dtype, shape, data_offsets}; the data), whose bytes are all of `file`. Entries are in the order
// of their data.
//
// INVALID_ARGUMENT naming `path`, the tensor and the numbers, unless the data of all tensors follow
// each other without overlap or hole from the header to the end of the file, each of exactly the
// size of its shape and aligned to its element size.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensors(absl::Span<const uint8_t> file,
                                                               absl::string_view path);

// "[2, 3]", for messages.
std::string ShapeString(absl::Span<const int64_t> shape);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_SAFETENSORS_H_
