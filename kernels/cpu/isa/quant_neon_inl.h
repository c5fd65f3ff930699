#ifndef QWENSERVE_KERNELS_CPU_ISA_QUANT_NEON_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_QUANT_NEON_INL_H_

// Quantised products by dots of four signed bytes. The sums of a block are exact integers and all
// that follows is in the order of QuantLinearArgs, so the bits are those of quant_linear_inl.h.
// Included by neon_inl.h.

// Rows that pass over a block of weights together: their sums (8 KiB) stay in the first cache.
constexpr int64_t kQuantRowTile = 64;
// Bytes of weights that are asked for ahead of their use. Panels follow each other in memory, so
// that this reaches into the next one.
constexpr int64_t kQuantAhead = 2048;

// A block is 32 inputs of a panel, 8 steps of 4 inputs. Load gives a step's 16 outputs, four to a
// vector.
struct Int8 {
  static constexpr int64_t kBlockBytes = 512;
  static constexpr bool kZeroAlways = false;
  static constexpr int kMiddle = 128;
  static void Load(const uint8_t* w, int step, int8x16_t (&out)[4]) {
    for (int v = 0; v < 4; ++v) out[v] = vreinterpretq_s8_u8(vld1q_u8(w + 64 * step + 16 * v));
  }
};

struct Int4 {
  static constexpr int64_t kBlockBytes = 256;
  static constexpr bool kZeroAlways = true;  // codes are stored as they are
  static constexpr int kMiddle = 0;
  static void Load(const uint8_t* w, int step, int8x16_t (&out)[4]) {
    for (int v = 0; v < 4; ++v) {
      const uint8x16_t pair = vld1q_u8(w + step / 2 * 64 + 16 * v);
      out[v] =
          vreinterpretq_s8_u8(step % 2 == 0 ? vandq_u8(pair, vdupq_n_u8(15)) : vshrq_n_u8(pair, 4));
    }
  }
};

template <typename Format, int rows, int lane>
inline void DotStep(const uint8_t* w, int step, const int8x16_t (&x)[rows],
                    int32x4_t (&sum)[rows][4]) {
  int8x16_t weights[4];
  Format::Load(w, step, weights);
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sum[r][v] = Dot<lane>(sum[r][v], weights[v], x[r]);
  }
}

// part[r][c] = fma(scales[r], sum of the block, part[r][c]). Row r's codes are at x + 32 r.
template <typename Format, int rows>
void AddBlock(const uint8_t* w, const int8_t* x, const float* scales, float* part) {
  int32x4_t sum[rows][4];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sum[r][v] = vdupq_n_s32(0);
  }
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    int8x16_t codes[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) codes[r] = vld1q_s8(x + 32 * r + 16 * half);
    DotStep<Format, rows, 0>(w, 4 * half, codes, sum);
    DotStep<Format, rows, 1>(w, 4 * half + 1, codes, sum);
    DotStep<Format, rows, 2>(w, 4 * half + 2, codes, sum);
    DotStep<Format, rows, 3>(w, 4 * half + 3, codes, sum);
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      float* p = part + r * kPanelColumns + 4 * v;
      vst1q_f32(p, vfmaq_n_f32(vld1q_f32(p), vcvtq_f32_s32(sum[r][v]), scales[r]));
    }
  }
}

template <typename Format>
void AddBlockRows(int64_t rows, const uint8_t* w, const int8_t* x, const float* scales,
                  float* part) {
  while (rows > 0) {
    // The last two tiles are of nearly equal height.
    const int64_t height = rows > 7 ? 4 : rows > 4 ? (rows + 1) / 2 : rows;
    if (height == 4) AddBlock<Format, 4>(w, x, scales, part);
    if (height == 3) AddBlock<Format, 3>(w, x, scales, part);
    if (height == 2) AddBlock<Format, 2>(w, x, scales, part);
    if (height == 1) AddBlock<Format, 1>(w, x, scales, part);
    x += 32 * height;
    scales += height;
    part += height * kPanelColumns;
    rows -= height;
  }
}

// part[r][c] = -(zero[c] * sums[r]), or 0 for a format whose codes are centred already.
template <typename Format>
void StartGroup(const uint8_t* zeros, int64_t rows, const float* sums, float* part) {
  float zero[kPanelColumns];
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    zero[c] = zeros == nullptr ? 8.0f : static_cast<float>(zeros[c] - Format::kMiddle);
  }
  const bool any = Format::kZeroAlways || zeros != nullptr;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      part[r * kPanelColumns + c] = any ? -(zero[c] * sums[r]) : 0.0f;
    }
  }
}

// One panel for up to kQuantRowTile rows.
template <typename Format>
void QuantRowTile(const QuantLinearArgs& args, int64_t panel, int64_t row, int64_t rows) {
  float part[kQuantRowTile * kPanelColumns], acc[kQuantRowTile * kPanelColumns];
  const int64_t blocks = args.packed_inputs / 32, group_blocks = args.group_size / 32;
  const int64_t groups = (blocks + group_blocks - 1) / group_blocks;
  const uint8_t* w =
      static_cast<const uint8_t*>(args.weight) + panel * blocks * Format::kBlockBytes;
  for (int64_t i = 0; i < rows * kPanelColumns; ++i) acc[i] = 0;
  for (int64_t g = 0, b = 0; g < groups; ++g) {
    const int64_t slot = (panel * groups + g) * kPanelColumns;
    StartGroup<Format>(args.zeros == nullptr ? nullptr : args.zeros + slot, rows,
                       args.x.sums + g * args.x.rows + row, part);
    for (const int64_t end = Min(b + group_blocks, blocks); b < end; ++b) {
      for (int64_t line = 0; line < Format::kBlockBytes; line += 64) {
        __builtin_prefetch(w + line + kQuantAhead);
      }
      const int64_t first = b * args.x.rows + row;
      AddBlockRows<Format>(rows, w, args.x.codes + first * 32, args.x.scales + first, part);
      w += Format::kBlockBytes;
    }
    for (int v = 0; v < 4; ++v) {
      const float32x4_t scale = LoadHalves(args.scales + slot + 4 * v);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = r * kPanelColumns + 4 * v;
        vst1q_f32(acc + at, vfmaq_f32(vld1q_f32(acc + at), vld1q_f32(part + at), scale));
      }
    }
  }
  const int64_t column = panel * kPanelColumns;
  StoreTile(acc, rows, kPanelColumns, Min(kPanelColumns, args.out_features - column),
            args.bias == nullptr ? nullptr : args.bias + column,
            args.out + row * args.out_features + column, args.out_features);
}

template <typename Format>
void QuantLinearNeon(const QuantLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                     float* /*scratch*/) {
  for (int64_t row = 0; row < args.x.rows; row += kQuantRowTile) {
    const int64_t count = Min(kQuantRowTile, args.x.rows - row);
    for (int64_t p = panel_begin; p < panel_end; ++p) QuantRowTile<Format>(args, p, row, count);
  }
}

// Packed inputs 32 b .. 32 b + 31 of the row x.
inline void LoadInputs(const QuantizeArgs& args, const float* x, int64_t b, float (&out)[32]) {
  for (int64_t j = 0; j < 32; ++j) {
    const int64_t packed = b * 32 + j;
    const int64_t i = args.input_order == nullptr ? packed : args.input_order[packed];
    out[j] = i >= 0 && i < args.in_features ? x[i] : 0.0f;
  }
}

// The largest magnitude; NaN if any is: as integers, the bits of magnitudes are in the order of the
// numbers, NaN last.
inline float MaxMagnitude(const float (&x)[32]) {
  uint32x4_t max = vdupq_n_u32(0);
  for (int v = 0; v < 8; ++v) {
    max = vmaxq_u32(max, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + 4 * v))));
  }
  const uint32_t bits = vmaxvq_u32(max);
  float result;
  __builtin_memcpy(&result, &bits, sizeof result);
  return result;
}

void QuantizeRowsNeon(const QuantizeArgs& args, int64_t row_begin, int64_t row_end) {
  const QuantActivations& out = args.out;
  const int64_t blocks = args.packed_inputs / 32, group_blocks = args.group_size / 32;
  const int64_t groups = (blocks + group_blocks - 1) / group_blocks;
  for (int64_t r = row_begin; r < row_end; ++r) {
    const float* x = args.x + r * args.in_features;
    for (int64_t g = 0, b = 0; g < groups; ++g) {
      float group_sum = 0;
      for (const int64_t end = Min(b + group_blocks, blocks); b < end; ++b) {
        float values[32];
        LoadInputs(args, x, b, values);
        const float amax = MaxMagnitude(values);
        const bool sound = amax >= kSmallestAmax && amax <= kLargestAmax;
        const float inverse = sound ? 127.0f / amax : 0.0f;
        int8_t* codes = out.codes + (b * out.rows + r) * 32;
        int32x4_t sum = vdupq_n_s32(0);
        for (int v = 0; v < 8; v += 2) {
          int32x4_t q[2];
          for (int i = 0; i < 2; ++i) {
            // To the nearest, ties to even.
            q[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(values + 4 * (v + i)), inverse));
            if (!sound) q[i] = vdupq_n_s32(0);
            sum = vaddq_s32(sum, q[i]);
          }
          vst1_s8(codes + 4 * v, vmovn_s16(vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]))));
        }
        const float scale = amax / 127.0f;
        const int32_t code_sum = vaddvq_s32(sum);
        out.scales[b * out.rows + r] = scale;
        out.code_sums[b * out.rows + r] = code_sum;
        group_sum = __builtin_fmaf(scale, static_cast<float>(code_sum), group_sum);
      }
      out.sums[g * out.rows + r] = group_sum;
    }
  }
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_QUANT_NEON_INL_H_
