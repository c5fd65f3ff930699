#ifndef QWENSERVE_ENGINE_LOADER_WEIGHT_CHOICE_H_
#define QWENSERVE_ENGINE_LOADER_WEIGHT_CHOICE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// In which format the matrices of a checkpoint are to be held.
enum class WeightChoice : uint8_t {
  kAuto,  // as the checkpoint holds them
  kBf16,  // the checkpoint must hold bf16
  kInt8,  // bf16, fp16 and f32 are rounded while loading, the head and the embedding per row
  kInt4,  // likewise; the head and the embedding in int8 per row
};

const char* WeightChoiceName(WeightChoice choice);

// From auto, bf16, int8 or int4; INVALID_ARGUMENT naming them for anything else.
absl::StatusOr<WeightChoice> ParseWeightChoice(absl::string_view name);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_WEIGHT_CHOICE_H_
