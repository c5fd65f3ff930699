#ifndef QWENSERVE_KERNELS_CPU_ISA_QUANT_AVX2_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_QUANT_AVX2_INL_H_

// Quantised products by 8 bit multiplies of AVX2 (vpmaddubsw: unsigned times signed, pairs added in
// 16 bits). The sums of a block are exact integers and all that follows is in the order of
// QuantLinearArgs, so the bits are those of quant_linear_inl.h.
// Included by isa_avx2.cc, inside its anonymous namespace.

// Rows that pass over an unpacked block together: their running sums (8 KiB) and codes of a block
// (2 KiB) stay in the first cache.
constexpr int64_t kQuantRowTile = 64;
// From here on a block of weights is unpacked once for all rows of a tile instead of in each tile.
constexpr int64_t kUnpackFromRows = 9;

inline __m256i LoadBytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

// The four codes at x, in every lane of 32 bits.
inline __m256i BroadcastCodes(const int8_t* x) {
  int32_t codes;
  __builtin_memcpy(&codes, x, sizeof codes);
  return _mm256_set1_epi32(codes);
}

// The sums of outputs 0-7 and 8-15 for some rows. Not an array: GCC keeps the parts of a struct in
// registers, but an array only where it has unrolled every loop over it in time.
template <int rows>
struct RowSums {
  __m256i low, high;
  RowSums<rows - 1> next;
};
template <>
struct RowSums<0> {};

// work(row, low, high) for each row.
template <int rows, typename Work>
[[gnu::always_inline]] inline void ForRows(RowSums<rows>& sums, Work work, int row = 0) {
  if constexpr (rows > 0) {
    work(row, sums.low, sums.high);
    ForRows(sums.next, work, row + 1);
  }
}

// Holds the sums in registers, and the loads of the next codes behind this point, whose address
// they get from here. GCC otherwise computes the products of all steps first and spills them.
template <int rows>
[[gnu::always_inline]] inline void KeepSums(RowSums<rows>& sums, const int8_t*& x) {
  ForRows(
      sums, [&](int, __m256i& low, __m256i& high) __attribute__((always_inline)) {
        asm volatile("" : "+x"(low), "+x"(high), "+r"(x));
      });
}

// A block is 32 inputs of a panel; a step is 4 inputs, 64 bytes when unpacked. Dot gives the sums
// of 16 outputs over the block for each row; row r's codes are at x + 32 r.
struct Int4 {
  static constexpr int64_t kBlockBytes = 256;
  static constexpr bool kZeroAlways = true;  // codes are stored as they are
  static constexpr int kMiddle = 0;

  // Codes are at most 15 and activations 127, so 16 products in 16 bits stay below 32768: a whole
  // block (8 steps of 2).
  template <int rows>
  [[gnu::always_inline]] static void Step(bool first, __m256i w0, __m256i w1, const int8_t* x,
                                          RowSums<rows>& sums) {
    if (!first) KeepSums(sums, x);
    ForRows(
        sums, [&](int r, __m256i& low, __m256i& high) __attribute__((always_inline)) {
          const __m256i codes = BroadcastCodes(x + 32 * r);
          const __m256i p0 = _mm256_maddubs_epi16(w0, codes), p1 = _mm256_maddubs_epi16(w1, codes);
          low = first ? p0 : _mm256_add_epi16(low, p0);
          high = first ? p1 : _mm256_add_epi16(high, p1);
        });
  }

  template <int rows, bool unpacked>
  [[gnu::always_inline]] static void Dot(const uint8_t* w, const uint8_t* /*packed*/,
                                         const int8_t* x, RowSums<rows>& sums) {
    if constexpr (unpacked) {
#pragma GCC unroll 8
      for (int s = 0; s < 8; ++s) {
        Step(s == 0, LoadBytes(w + 64 * s), LoadBytes(w + 64 * s + 32), x + 4 * s, sums);
      }
    } else {
      const __m256i mask = _mm256_set1_epi8(15);
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) {
        const __m256i w0 = LoadBytes(w + 64 * u), w1 = LoadBytes(w + 64 * u + 32);
        Step(u == 0, _mm256_and_si256(w0, mask), _mm256_and_si256(w1, mask), x + 8 * u, sums);
        Step(false, _mm256_and_si256(_mm256_srli_epi16(w0, 4), mask),
             _mm256_and_si256(_mm256_srli_epi16(w1, 4), mask), x + 8 * u + 4, sums);
      }
    }
    const __m256i one = _mm256_set1_epi16(1);
    ForRows(
        sums, [&](int, __m256i& low, __m256i& high) __attribute__((always_inline)) {
          low = _mm256_madd_epi16(low, one);
          high = _mm256_madd_epi16(high, one);
        });
  }

  static void Unpack(const uint8_t* w, uint8_t* out) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int i = 0; i < 8; ++i) {
      const __m256i v = LoadBytes(w + 32 * i);
      auto* to = reinterpret_cast<__m256i*>(out + i / 2 * 128 + i % 2 * 32);
      _mm256_store_si256(to, _mm256_and_si256(v, low));
      _mm256_store_si256(to + 2, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
    }
  }
};

struct Int8 {
  static constexpr int64_t kBlockBytes = 512;
  static constexpr bool kZeroAlways = false;
  static constexpr int kMiddle = 128;

  // |w| times x with the sign of w. |w| <= 128 and |x| <= 127: no pair leaves 16 bits.
  template <int rows, bool unpacked>
  [[gnu::always_inline]] static void Dot(const uint8_t* magnitudes, const uint8_t* w,
                                         const int8_t* x, RowSums<rows>& sums) {
    const __m256i one = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) {
      if (s != 0) KeepSums(sums, x);
      const __m256i w0 = LoadBytes(w + 64 * s), w1 = LoadBytes(w + 64 * s + 32);
      const __m256i m0 = unpacked ? LoadBytes(magnitudes + 64 * s) : _mm256_abs_epi8(w0);
      const __m256i m1 = unpacked ? LoadBytes(magnitudes + 64 * s + 32) : _mm256_abs_epi8(w1);
      ForRows(
          sums, [&](int r, __m256i& low, __m256i& high) __attribute__((always_inline)) {
            const __m256i codes = BroadcastCodes(x + 32 * r + 4 * s);
            const __m256i p0 = _mm256_maddubs_epi16(m0, _mm256_sign_epi8(codes, w0));
            const __m256i p1 = _mm256_maddubs_epi16(m1, _mm256_sign_epi8(codes, w1));
            const __m256i d0 = _mm256_madd_epi16(p0, one), d1 = _mm256_madd_epi16(p1, one);
            low = s == 0 ? d0 : _mm256_add_epi32(low, d0);
            high = s == 0 ? d1 : _mm256_add_epi32(high, d1);
          });
    }
  }

  static void Unpack(const uint8_t* w, uint8_t* out) {
    for (int i = 0; i < 16; ++i) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + 32 * i),
                         _mm256_abs_epi8(LoadBytes(w + 32 * i)));
    }
  }
};

// What all rows share in one group of one panel.
struct QuantGroup {
  __m256 scale[2];
  __m256 zero[2];  // to be multiplied by the row's sum; unused without `zeros`
  bool zeros;
};

template <typename Format>
inline QuantGroup LoadGroup(const QuantLinearArgs& args, int64_t slot) {
  QuantGroup group;
  group.zeros = Format::kZeroAlways || args.zeros != nullptr;
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    group.scale[v] = _mm256_cvtph_ps(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(args.scales + slot + 8 * v)));
    group.zero[v] = _mm256_set1_ps(8);
    if (args.zeros != nullptr) {
      int64_t bytes;
      __builtin_memcpy(&bytes, args.zeros + slot + 8 * v, sizeof bytes);
      group.zero[v] = _mm256_cvtepi32_ps(_mm256_sub_epi32(
          _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes)), _mm256_set1_epi32(Format::kMiddle)));
    }
  }
  return group;
}

// The sum of a group before its first block.
inline __m256 StartOfGroup(const QuantGroup& group, int v, float sum) {
  if (!group.zeros) return _mm256_setzero_ps();
  return _mm256_xor_ps(_mm256_mul_ps(group.zero[v], _mm256_set1_ps(sum)), _mm256_set1_ps(-0.0f));
}

// acc: [rows][16].
inline void StoreOutputs(const QuantLinearArgs& args, int64_t panel, int64_t row, int64_t rows,
                         const float* acc) {
  const int64_t column = panel * kPanelColumns;
  const int64_t columns = Min(kPanelColumns, args.out_features - column);
  const float* bias = args.bias == nullptr ? nullptr : args.bias + column;
  float* out = args.out + row * args.out_features + column;
  if (columns < kPanelColumns) {
    StoreTile(acc, rows, kPanelColumns, columns, bias, out, args.out_features);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    __m256 low = _mm256_loadu_ps(acc + r * kPanelColumns);
    __m256 high = _mm256_loadu_ps(acc + r * kPanelColumns + 8);
    if (bias != nullptr) {
      low = _mm256_add_ps(low, _mm256_loadu_ps(bias));
      high = _mm256_add_ps(high, _mm256_loadu_ps(bias + 8));
    }
    _mm256_storeu_ps(out + r * args.out_features, low);
    _mm256_storeu_ps(out + r * args.out_features + 8, high);
  }
}

// Bytes of weights that are asked for ahead of their use. Panels follow each other in memory, so
// that this reaches into the next one.
constexpr int64_t kQuantAhead = 4096;

template <typename Format>
inline void PrefetchBlock(const uint8_t* block) {
#pragma GCC unroll 8
  for (int64_t line = 0; line < Format::kBlockBytes; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(block + line + kQuantAhead), _MM_HINT_T0);
  }
}

// One row: sums in registers, bound by memory.
template <typename Format>
void QuantOneRow(const QuantLinearArgs& args, int64_t panel) {
  const int64_t blocks = args.packed_inputs / 32, group_blocks = args.group_size / 32;
  const int64_t groups = (blocks + group_blocks - 1) / group_blocks;
  const uint8_t* w =
      static_cast<const uint8_t*>(args.weight) + panel * blocks * Format::kBlockBytes;
  __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int64_t g = 0, b = 0; g < groups; ++g) {
    const QuantGroup group = LoadGroup<Format>(args, (panel * groups + g) * kPanelColumns);
    __m256 part[2] = {StartOfGroup(group, 0, args.x.sums[g]),
                      StartOfGroup(group, 1, args.x.sums[g])};
    for (const int64_t end = Min(b + group_blocks, blocks); b < end; ++b) {
      PrefetchBlock<Format>(w);
      RowSums<1> sums;
      Format::template Dot<1, false>(w, w, args.x.codes + 32 * b, sums);
      const __m256 scale = _mm256_broadcast_ss(args.x.scales + b);
      part[0] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sums.low), part[0]);
      part[1] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sums.high), part[1]);
      w += Format::kBlockBytes;
    }
    acc[0] = _mm256_fmadd_ps(part[0], group.scale[0], acc[0]);
    acc[1] = _mm256_fmadd_ps(part[1], group.scale[1], acc[1]);
  }
  alignas(32) float out[kPanelColumns];
  _mm256_store_ps(out, acc[0]);
  _mm256_store_ps(out + 8, acc[1]);
  StoreOutputs(args, panel, 0, 1, out);
}

// A block's sums of 8 outputs for one row, added to those of the group, which are added to the
// result after the group's last block.
template <bool first, bool last>
[[gnu::always_inline]] inline void AddBlock(__m256i sum, __m256 scale, const QuantGroup& group,
                                            int v, float group_sum, float* part, float* acc) {
  const __m256 before = first ? StartOfGroup(group, v, group_sum) : _mm256_load_ps(part + 8 * v);
  const __m256 after = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sum), before);
  if constexpr (last) {
    _mm256_store_ps(acc + 8 * v,
                    _mm256_fmadd_ps(after, group.scale[v], _mm256_load_ps(acc + 8 * v)));
  } else {
    _mm256_store_ps(part + 8 * v, after);
  }
}

// Likewise of 16 outputs for `rows` rows. part, acc: [rows][16].
template <typename Format, int rows, bool unpacked, bool first, bool last>
[[gnu::always_inline]] inline void BlockTile(const uint8_t* w, const uint8_t* packed,
                                             const int8_t* x, const float* scales,
                                             const QuantGroup& group, const float* group_sums,
                                             float* part, float* acc) {
  // The weights of each tile are loaded anew: kept over tiles, they would be spilled.
  asm volatile("" : "+r"(w), "+r"(packed));
  RowSums<rows> sums;
  Format::template Dot<rows, unpacked>(w, packed, x, sums);
  ForRows(
      sums, [&](int r, __m256i low, __m256i high) __attribute__((always_inline)) {
        const __m256 scale = _mm256_broadcast_ss(scales + r);
        const int64_t row = r * kPanelColumns;
        AddBlock<first, last>(low, scale, group, 0, group_sums[r], part + row, acc + row);
        AddBlock<first, last>(high, scale, group, 1, group_sums[r], part + row, acc + row);
      });
}

template <typename Format, bool unpacked, bool first, bool last>
void BlockTiles(int64_t rows, const uint8_t* w, const uint8_t* packed, const int8_t* x,
                const float* scales, const QuantGroup& group, const float* group_sums, float* part,
                float* acc) {
  while (rows > 0) {
    // The last two tiles are of nearly equal height.
    const int64_t height = rows > 7 ? 4 : rows > 4 ? (rows + 1) / 2 : rows;
    const auto run = [&]<int count>() __attribute__((always_inline)) {
      BlockTile<Format, count, unpacked, first, last>(w, packed, x, scales, group, group_sums, part,
                                                      acc);
    };
    if (height == 4) run.template operator()<4>();
    if (height == 3) run.template operator()<3>();
    if (height == 2) run.template operator()<2>();
    if (height == 1) run.template operator()<1>();
    x += 32 * height;
    scales += height;
    group_sums += height;
    part += height * kPanelColumns;
    acc += height * kPanelColumns;
    rows -= height;
  }
}

// One panel for up to kQuantRowTile rows.
template <typename Format, bool unpacked>
void QuantRowTile(const QuantLinearArgs& args, int64_t panel, int64_t row, int64_t rows) {
  alignas(64) float part[kQuantRowTile * kPanelColumns], acc[kQuantRowTile * kPanelColumns];
  alignas(64) uint8_t wide[512];
  const int64_t blocks = args.packed_inputs / 32, group_blocks = args.group_size / 32;
  const int64_t groups = (blocks + group_blocks - 1) / group_blocks;
  const uint8_t* packed =
      static_cast<const uint8_t*>(args.weight) + panel * blocks * Format::kBlockBytes;
  for (int64_t i = 0; i < rows * kPanelColumns; ++i) acc[i] = 0;
  for (int64_t g = 0, b = 0; g < groups; ++g) {
    const QuantGroup group = LoadGroup<Format>(args, (panel * groups + g) * kPanelColumns);
    const float* sums = args.x.sums + g * args.x.rows + row;
    const int64_t begin = b;
    for (const int64_t end = Min(b + group_blocks, blocks); b < end; ++b) {
      const uint8_t* w = packed;
      if constexpr (unpacked) {
        Format::Unpack(packed, wide);
        w = wide;
      } else {
        PrefetchBlock<Format>(packed);
      }
      const int8_t* x = args.x.codes + (b * args.x.rows + row) * 32;
      const float* scales = args.x.scales + b * args.x.rows + row;
      const auto run = [&]<bool first, bool last>() __attribute__((always_inline)) {
        BlockTiles<Format, unpacked, first, last>(rows, w, packed, x, scales, group, sums, part,
                                                  acc);
      };
      if (b == begin) {
        b + 1 == end ? run.template operator()<true, true>()
                     : run.template operator()<true, false>();
      } else {
        b + 1 == end ? run.template operator()<false, true>()
                     : run.template operator()<false, false>();
      }
      packed += Format::kBlockBytes;
    }
  }
  StoreOutputs(args, panel, row, rows, acc);
}

template <typename Format>
void QuantLinearAvx2(const QuantLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                     float* /*scratch*/) {
  const int64_t rows = args.x.rows;
  if (rows == 1) {
    for (int64_t p = panel_begin; p < panel_end; ++p) QuantOneRow<Format>(args, p);
    return;
  }
  for (int64_t row = 0; row < rows; row += kQuantRowTile) {
    const int64_t count = Min(kQuantRowTile, rows - row);
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      count < kUnpackFromRows ? QuantRowTile<Format, false>(args, panel, row, count)
                              : QuantRowTile<Format, true>(args, panel, row, count);
    }
  }
}

// The largest magnitude of a block; NaN if any is: as integers, the bits of magnitudes are in the
// order of the numbers, NaN last.
inline float MaxMagnitude(const __m256 (&x)[4]) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  __m256i m[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) m[i] = _mm256_and_si256(_mm256_castps_si256(x[i]), mask);
  const __m256i all = _mm256_max_epi32(_mm256_max_epi32(m[0], m[1]), _mm256_max_epi32(m[2], m[3]));
  __m128i h = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
  h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
  return _mm_cvtss_f32(_mm_castsi128_ps(h));
}

// Rounds a block and returns the sum of its codes.
inline int32_t RoundBlock(const __m256 (&x)[4], float inverse, int8_t* codes) {
  __m256i q[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], _mm256_set1_ps(inverse)));
  }
  const __m256i total =
      _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
  __m128i h = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
  h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1));
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  // The packs work in halves of the vector.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_permutevar8x32_epi32(bytes, order));
  return _mm_cvtsi128_si32(h);
}

// Packed inputs 32 b .. 32 b + 31 of the row x.
inline void LoadInputs(const QuantizeArgs& args, const float* x, int64_t b, __m256 (&out)[4]) {
  const int64_t first = b * 32;
  if (args.input_order != nullptr) {
    const __m256i end = _mm256_set1_epi32(static_cast<int32_t>(args.in_features));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256i index = LoadBytes(args.input_order + first + 8 * i);
      const __m256i valid = _mm256_and_si256(_mm256_cmpgt_epi32(index, _mm256_set1_epi32(-1)),
                                             _mm256_cmpgt_epi32(end, index));
      out[i] =
          _mm256_mask_i32gather_ps(_mm256_setzero_ps(), x, index, _mm256_castsi256_ps(valid), 4);
    }
    return;
  }
  if (first + 32 <= args.in_features) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) out[i] = _mm256_loadu_ps(x + first + 8 * i);
    return;
  }
  float padded[32] = {};
  for (int64_t i = first; i < args.in_features; ++i) padded[i - first] = x[i];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) out[i] = _mm256_loadu_ps(padded + 8 * i);
}

void QuantizeRowsAvx2(const QuantizeArgs& args, int64_t row_begin, int64_t row_end) {
  const QuantActivations& out = args.out;
  const int64_t blocks = args.packed_inputs / 32, group_blocks = args.group_size / 32;
  const int64_t groups = (blocks + group_blocks - 1) / group_blocks;
  for (int64_t r = row_begin; r < row_end; ++r) {
    const float* x = args.x + r * args.in_features;
    for (int64_t g = 0, b = 0; g < groups; ++g) {
      float group_sum = 0;
      for (const int64_t end = Min(b + group_blocks, blocks); b < end; ++b) {
        __m256 values[4];
        LoadInputs(args, x, b, values);
        const float amax = MaxMagnitude(values);
        int8_t* codes = out.codes + (b * out.rows + r) * 32;
        int32_t sum = 0;
        if (amax >= kSmallestAmax && amax <= kLargestAmax) {
          sum = RoundBlock(values, 127.0f / amax, codes);
        } else {
          __builtin_memset(codes, 0, 32);
        }
        const float scale = amax / 127.0f;
        out.scales[b * out.rows + r] = scale;
        out.code_sums[b * out.rows + r] = sum;
        group_sum = __builtin_fmaf(scale, static_cast<float>(sum), group_sum);
      }
      out.sums[g * out.rows + r] = group_sum;
    }
  }
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_QUANT_AVX2_INL_H_
