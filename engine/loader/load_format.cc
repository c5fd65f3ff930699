#include "engine/loader/load_format.h"

#include "absl/strings/str_cat.h"

namespace qwenserve {

const char* LoadFormatName(LoadFormat format) {
  return format == LoadFormat::kDummy ? "dummy" : "auto";
}

absl::StatusOr<LoadFormat> ParseLoadFormat(absl::string_view name) {
  for (const LoadFormat format : {LoadFormat::kAuto, LoadFormat::kDummy}) {
    if (name == LoadFormatName(format)) return format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("load format \"", name, "\" is unknown: auto or dummy"));
}

}  // namespace qwenserve
