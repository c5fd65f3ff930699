#include <cpuid.h>
#include <emmintrin.h>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_features.h"

namespace qwenserve {
namespace {

bool HasAvx2() {
  // The compiler's runtime asks the operating system too; it does not know F16C everywhere.
  constexpr unsigned kF16cBit = 1u << 29;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & kF16cBit) != 0;
}

}  // namespace

absl::StatusOr<const KernelTable*> ChooseKernels(const std::string& isa) {
  if (isa == "portable") return &kPortableKernels;
  if (isa == "auto") return HasAvx2() ? &kAvx2Kernels : &kPortableKernels;
  if (isa != "avx2") {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown instruction set \"", isa, "\"; known: auto, portable, avx2"));
  }
  if (!HasAvx2()) {
    return absl::InvalidArgumentError("this machine does not have AVX2, FMA and F16C");
  }
  return &kAvx2Kernels;
}

void CpuRelax() { _mm_pause(); }

}  // namespace qwenserve
