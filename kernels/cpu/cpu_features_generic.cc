#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_features.h"

namespace qwenserve {

absl::StatusOr<const KernelTable*> ChooseKernels(const std::string& isa) {
  if (isa == "portable" || isa == "auto") return &kPortableKernels;
  return absl::InvalidArgumentError(
      absl::StrCat("instruction set \"", isa, "\" is not for this machine; known: auto, portable"));
}

void CpuRelax() {}

}  // namespace qwenserve
