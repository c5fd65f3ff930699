#include "engine/loader/weight_choice.h"

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

constexpr WeightChoice kChoices[] = {WeightChoice::kAuto, WeightChoice::kBf16, WeightChoice::kInt8,
                                     WeightChoice::kInt4};

}  // namespace

const char* WeightChoiceName(WeightChoice choice) {
  switch (choice) {
    case WeightChoice::kAuto:
      return "auto";
    case WeightChoice::kBf16:
      return "bf16";
    case WeightChoice::kInt8:
      return "int8";
    case WeightChoice::kInt4:
      return "int4";
  }
  return "unknown";
}

absl::StatusOr<WeightChoice> ParseWeightChoice(absl::string_view name) {
  for (WeightChoice choice : kChoices) {
    if (name == WeightChoiceName(choice)) return choice;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("weights \"", name, "\" are unknown: auto, bf16, int8 or int4"));
}

}  // namespace qwenserve
