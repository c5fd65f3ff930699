// Quantised products on x86-64 with AMX-INT8; all else is that of the AVX-512 table. Compiled with
// its own flags: includes nothing that holds an inline function with a name of its own (see
// kernel_table.h).
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {
namespace {

inline float HalfToFloat(uint16_t bits) { return _cvtsh_ss(bits); }
#include "kernels/cpu/isa/amx_inl.h"

// Few rows leave a tile nearly empty; vpdpbusd streams their weights as fast as memory gives them.
constexpr int64_t kAmxFromRows = 9;

template <typename Format, int kind>
void QuantLinear(const QuantLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                 float* scratch) {
  if (args.x.rows < kAmxFromRows) {
    kAvx512Kernels.quant_linear[kind](args, panel_begin, panel_end, scratch);
  } else {
    AmxQuantLinear<Format>(args, panel_begin, panel_end, scratch);
  }
}

}  // namespace

constinit const QuantLinearKernels kAmxQuantLinear = {
    .linear = {QuantLinear<AmxInt8, 0>, QuantLinear<AmxInt4, 1>}};

}  // namespace qwenserve
