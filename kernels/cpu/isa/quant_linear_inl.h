#ifndef QWENSERVE_KERNELS_CPU_ISA_QUANT_LINEAR_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_QUANT_LINEAR_INL_H_

// Quantised products in plain loops: what every instruction set's own must equal, bit for bit. The
// including file has
//   Fma(a, b, c)
//   HalfToFloat(bits)
// Included once per instruction set, inside an anonymous namespace (see kernel_table.h).

// Nearest, ties to even, for |x| < 2^22: the sum's last bit is worth 1.
inline float RoundNearest(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (x + kShift) - kShift;
}

void QuantizeRows(const QuantizeArgs& args, int64_t row_begin, int64_t row_end) {
  const QuantActivations& out = args.out;
  const int64_t blocks = args.packed_inputs / 32;
  for (int64_t r = row_begin; r < row_end; ++r) {
    const float* x = args.x + r * args.in_features;
    float group_sum = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      float values[32];
      float amax = 0;
      for (int64_t j = 0; j < 32; ++j) {
        const int64_t packed = b * 32 + j;
        const int64_t i = args.input_order == nullptr ? packed : args.input_order[packed];
        values[j] = i >= 0 && i < args.in_features ? x[i] : 0.0f;
        const float magnitude = __builtin_fabsf(values[j]);
        // A NaN must not get lost: it makes the block's scale NaN, and so the row.
        amax = amax >= magnitude || amax != amax ? amax : magnitude;
      }
      const bool sound = amax >= kSmallestAmax && amax <= kLargestAmax;
      const float inverse = sound ? 127.0f / amax : 0.0f;
      int8_t* codes = out.codes + (b * out.rows + r) * 32;
      int32_t sum = 0;
      for (int64_t j = 0; j < 32; ++j) {
        const int32_t code = sound ? static_cast<int32_t>(RoundNearest(values[j] * inverse)) : 0;
        codes[j] = static_cast<int8_t>(code);
        sum += code;
      }
      const float scale = amax / 127.0f;
      out.scales[b * out.rows + r] = scale;
      out.code_sums[b * out.rows + r] = sum;
      if (b * 32 % args.group_size == 0) group_sum = 0;
      group_sum = Fma(scale, static_cast<float>(sum), group_sum);
      out.sums[b * 32 / args.group_size * out.rows + r] = group_sum;
    }
  }
}

// The sums of 16 outputs over one block of 32 inputs.
inline void BlockDot8(const int8_t* w, const int8_t* x, int32_t* dot) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    int32_t sum = 0;
    for (int64_t i = 0; i < 32; ++i) sum += w[(i / 4 * kPanelColumns + c) * 4 + i % 4] * x[i];
    dot[c] = sum;
  }
}

inline void BlockDot4(const uint8_t* w, const int8_t* x, int32_t* dot) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    int32_t sum = 0;
    for (int64_t u = 0; u < 4; ++u) {
      for (int64_t j = 0; j < 4; ++j) {
        const int32_t byte = w[(u * kPanelColumns + c) * 4 + j];
        sum += (byte & 15) * x[8 * u + j] + (byte >> 4) * x[8 * u + 4 + j];
      }
    }
    dot[c] = sum;
  }
}

template <bool int8>
void QuantLinearPanels(const QuantLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                       float* /*scratch*/) {
  const int64_t k = args.packed_inputs, group_size = args.group_size;
  const int64_t groups = (k + group_size - 1) / group_size;
  constexpr int64_t kBlockBytes = int8 ? 32 * kPanelColumns : 16 * kPanelColumns;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const auto* weight = static_cast<const uint8_t*>(args.weight) + p * (k / 32) * kBlockBytes;
    const int64_t columns = Min(kPanelColumns, args.out_features - p * kPanelColumns);
    for (int64_t r = 0; r < args.x.rows; ++r) {
      float acc[kPanelColumns] = {};
      for (int64_t g = 0; g < groups; ++g) {
        float part[kPanelColumns] = {};
        const int64_t slot = (p * groups + g) * kPanelColumns;
        if (!int8 || args.zeros != nullptr) {
          const float sums = args.x.sums[g * args.x.rows + r];
          for (int64_t c = 0; c < kPanelColumns; ++c) {
            const int zero = args.zeros == nullptr ? 8 : args.zeros[slot + c] - (int8 ? 128 : 0);
            part[c] = -(static_cast<float>(zero) * sums);
          }
        }
        const int64_t end = Min((g + 1) * group_size, k) / 32;
        for (int64_t b = g * group_size / 32; b < end; ++b) {
          int32_t dot[kPanelColumns];
          const int8_t* x = args.x.codes + (b * args.x.rows + r) * 32;
          if constexpr (int8) {
            BlockDot8(reinterpret_cast<const int8_t*>(weight + b * kBlockBytes), x, dot);
          } else {
            BlockDot4(weight + b * kBlockBytes, x, dot);
          }
          const float scale = args.x.scales[b * args.x.rows + r];
          for (int64_t c = 0; c < kPanelColumns; ++c) {
            part[c] = Fma(scale, static_cast<float>(dot[c]), part[c]);
          }
        }
        for (int64_t c = 0; c < kPanelColumns; ++c) {
          acc[c] = Fma(part[c], HalfToFloat(args.scales[slot + c]), acc[c]);
        }
      }
      float* out = args.out + r * args.out_features + p * kPanelColumns;
      const float* bias = args.bias == nullptr ? nullptr : args.bias + p * kPanelColumns;
      for (int64_t c = 0; c < columns; ++c) out[c] = bias == nullptr ? acc[c] : acc[c] + bias[c];
    }
  }
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_QUANT_LINEAR_INL_H_
