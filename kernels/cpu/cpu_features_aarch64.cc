#include <sys/auxv.h>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_features.h"

namespace qwenserve {
namespace {

bool HasDotProduct() {
  constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP of Linux's asm/hwcap.h
  return (getauxval(AT_HWCAP) & kAsimdDp) != 0;
}

}  // namespace

absl::StatusOr<const KernelTable*> ChooseKernels(const std::string& isa) {
  if (isa == "auto") return HasDotProduct() ? &kNeonDotKernels : &kNeonKernels;
  if (isa == "portable") return &kPortableKernels;
  if (isa == "neon") return &kNeonKernels;
  if (isa != "neondot") {
    return absl::InvalidArgumentError(absl::StrCat("unknown instruction set \"", isa,
                                                   "\"; known: auto, portable, neon, neondot"));
  }
  if (!HasDotProduct()) {
    return absl::InvalidArgumentError(
        "this machine does not have the dot product instructions that neondot needs");
  }
  return &kNeonDotKernels;
}

void CpuRelax() { asm volatile("yield"); }

}  // namespace qwenserve
