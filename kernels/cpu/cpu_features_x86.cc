#include <cpuid.h>
#include <emmintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

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

bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

bool HasAvx512Bf16() { return HasAvx512() && __builtin_cpu_supports("avx512bf16"); }

// Tiles take 8 KiB of each thread's state, so Linux gives them to a process that asks.
bool HasAmx() {
  constexpr unsigned kTileBit = 1u << 24, kInt8Bit = 1u << 25;  // of leaf 7's edx
  constexpr long kRequestPermission = 0x1023;                   // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;                                // XFEATURE_XTILEDATA
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return HasAvx512Bf16() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
         (edx & kTileBit) != 0 && (edx & kInt8Bit) != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

const KernelTable* Portable() { return &kPortableKernels; }
const KernelTable* Avx2() { return &kAvx2Kernels; }
const KernelTable* Avx512() { return &kAvx512Kernels; }
const KernelTable* Avx512Bf16() {
  static const KernelTable kernels = [] {
    KernelTable table = kAvx512Kernels;
    table.name = "avx512bf16";
    table.bf16_dot = &kAvx512Bf16Dot;
    return table;
  }();
  return &kernels;
}

const KernelTable* Amx() {
  static const KernelTable kernels = [] {
    KernelTable table = *Avx512Bf16();
    table.name = "amx";
    for (int i = 0; i < 2; ++i) table.quant_linear[i] = kAmxQuantLinear.linear[i];
    return table;
  }();
  return &kernels;
}

struct Isa {
  const char* name;
  const char* needs;
  bool automatic;  // may be chosen by "auto"
  bool (*available)();
  const KernelTable* (*kernels)();
};

// The best first. The AMX kernels have not run on a machine yet, so they are only for who asks.
constexpr Isa kIsas[] = {
    {"amx", "AMX-INT8 and AVX-512 F, BW, DQ, VL, VNNI and BF16", false, HasAmx, Amx},
    {"avx512bf16", "AVX-512 F, BW, DQ, VL, VNNI and BF16", true, HasAvx512Bf16, Avx512Bf16},
    {"avx512", "AVX-512 F, BW, DQ, VL and VNNI", true, HasAvx512, Avx512},
    {"avx2", "AVX2, FMA and F16C", true, HasAvx2, Avx2},
    {"portable", "", true, [] { return true; }, Portable},
};

}  // namespace

absl::StatusOr<const KernelTable*> ChooseKernels(const std::string& isa) {
  for (const Isa& candidate : kIsas) {
    if (isa == "auto" && candidate.automatic && candidate.available()) return candidate.kernels();
    if (isa != candidate.name) continue;
    if (candidate.available()) return candidate.kernels();
    return absl::InvalidArgumentError(
        absl::StrCat("this machine does not have ", candidate.needs, ", as ", isa, " needs"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown instruction set \"", isa,
                   "\"; known: auto, portable, avx2, avx512, avx512bf16, amx"));
}

void CpuRelax() { _mm_pause(); }

}  // namespace qwenserve
