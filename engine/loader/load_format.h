#ifndef QWENSERVE_ENGINE_LOADER_LOAD_FORMAT_H_
#define QWENSERVE_ENGINE_LOADER_LOAD_FORMAT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// Where weights come from.
enum class LoadFormat : uint8_t {
  kAuto,   // the files of the model directory
  kDummy,  // random numbers of the sizes that config.json asks for: for planning and benchmarks
};

const char* LoadFormatName(LoadFormat format);

// From auto or dummy; INVALID_ARGUMENT naming them for anything else.
absl::StatusOr<LoadFormat> ParseLoadFormat(absl::string_view name);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_LOAD_FORMAT_H_
