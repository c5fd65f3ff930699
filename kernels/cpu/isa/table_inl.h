#ifndef QWENSERVE_KERNELS_CPU_ISA_TABLE_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_TABLE_INL_H_

// The table of an instruction set: all loops but the quantised products have one name everywhere.
// Included once per instruction set, behind all others, inside an anonymous namespace (see
// kernel_table.h).

using QuantLinearKernel = void (*)(const QuantLinearArgs& args, int64_t panel_begin,
                                   int64_t panel_end, float* scratch);

constexpr KernelTable MakeTable(const char* name, decltype(KernelTable::quantize_rows) quantize,
                                QuantLinearKernel int8, QuantLinearKernel int4) {
  return {
      .name = name,
      .linear = {LinearPanels<F32>, LinearPanels<Bf16>, LinearPanels<F16>},
      .bf16_dot = nullptr,
      .quantize_rows = quantize,
      .quant_linear = {int8, int4},
      .attention = {Attention<F32Kv>, Attention<Bf16Kv>, Attention<Int8Kv>, Attention<QwenInt8Kv>},
      .merge_attention = MergeAttention,
      .store_kv = {StoreKv<F32Kv>, StoreKv<Bf16Kv>, StoreKv<Int8Kv>},
      .norm_rope = NormRope,
      .rms_norm = RmsNorm,
      .silu_mul = SiluMul,
      .block_maxima = BlockMaxima,
      .weigh = Weigh,
      .race_next = RaceNext,
  };
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_TABLE_INL_H_
