#ifndef QWENSERVE_KERNELS_CPU_ISA_QUANTIZE_AVX512_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_QUANTIZE_AVX512_INL_H_

// Rounding of the inputs of a quantised product (QuantActivations in kernel_table.h). Included by
// isa_avx512.cc, inside an anonymous namespace.

// Codes of a block; returns lanes that add up to the sum of the codes. Not sound: all codes are 0.
inline __m512i RoundBlock(__m512 low, __m512 high, float inverse, bool sound, int8_t* codes) {
  const __m512 factor = _mm512_set1_ps(inverse);
  const auto mask = static_cast<__mmask16>(sound ? 0xffff : 0);
  const __m512i first = _mm512_maskz_cvtps_epi32(mask, _mm512_mul_ps(low, factor));
  const __m512i second = _mm512_maskz_cvtps_epi32(mask, _mm512_mul_ps(high, factor));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(first));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtepi32_epi8(second));
  return _mm512_add_epi32(first, second);
}

// One block of a row; returns the sum of its codes.
inline int32_t QuantizeBlock(__m512 low, __m512 high, int8_t* codes, float* scale) {
  const __m512 magnitudes = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
  float amax = _mm512_reduce_max_ps(magnitudes);
  // max drops a NaN, which must make the block's scale NaN, and so the row.
  if (_mm512_cmp_ps_mask(low, high, _CMP_UNORD_Q) != 0) amax = __builtin_nanf("");
  *scale = amax / 127.0f;
  const bool sound = amax >= kSmallestAmax && amax <= kLargestAmax;
  const __m512i sums = RoundBlock(low, high, sound ? 127.0f / amax : 0.0f, sound, codes);
  return _mm512_reduce_add_epi32(sums);
}

// Inputs 32 b .. 32 b + 31 of a row.
inline void LoadBlock(const QuantizeArgs& args, const float* x, int64_t b, __m512& low,
                      __m512& high) {
  if (args.input_order != nullptr) {
    const __m512i last = _mm512_set1_epi32(static_cast<int32_t>(args.in_features - 1));
    const auto gather = [&](const int32_t* order) {
      const __m512i index = _mm512_loadu_si512(order);
      const __mmask16 valid = _mm512_cmpge_epi32_mask(index, _mm512_setzero_si512()) &
                              _mm512_cmple_epi32_mask(index, last);
      return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), valid, index, x, sizeof(float));
    };
    low = gather(args.input_order + b * 32);
    high = gather(args.input_order + b * 32 + 16);
  } else if (b * 32 + 32 <= args.in_features) {
    low = _mm512_loadu_ps(x + b * 32);
    high = _mm512_loadu_ps(x + b * 32 + 16);
  } else {
    const uint32_t mask = (1u << (args.in_features - b * 32)) - 1;
    low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + b * 32);
    high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + b * 32 + 16);
  }
}

// Lane r of the result: all lanes of in[r] joined by op, which is exact in any order.
template <typename Op>
inline __m256i JoinLanes(const __m512i* in, Op op) {
  __m256i half[8], pair[4], quad[2];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    half[r] = op(_mm512_castsi512_si256(in[r]), _mm512_extracti32x8_epi32(in[r], 1));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    pair[i] = op(_mm256_unpacklo_epi32(half[2 * i], half[2 * i + 1]),
                 _mm256_unpackhi_epi32(half[2 * i], half[2 * i + 1]));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    quad[i] = op(_mm256_unpacklo_epi64(pair[2 * i], pair[2 * i + 1]),
                 _mm256_unpackhi_epi64(pair[2 * i], pair[2 * i + 1]));
  }
  return op(_mm256_permute2x128_si256(quad[0], quad[1], 0x20),
            _mm256_permute2x128_si256(quad[0], quad[1], 0x31));
}

// QuantizeBlock for eight rows at once, block by block, so that what lies together in the output is
// written together.
void QuantizeEightRows(const QuantizeArgs& args, int64_t row) {
  const QuantActivations& out = args.out;
  const int64_t blocks = args.packed_inputs / 32, group_blocks = args.group_size / 32;
  __m256 group_sums = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    __m512 low[8], high[8];
    __m512i magnitudes[8];
    unsigned nan_rows = 0;
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      LoadBlock(args, args.x + (row + r) * args.in_features, b, low[r], high[r]);
      magnitudes[r] =
          _mm512_castps_si512(_mm512_max_ps(_mm512_abs_ps(low[r]), _mm512_abs_ps(high[r])));
      nan_rows |= (_mm512_cmp_ps_mask(low[r], high[r], _CMP_UNORD_Q) != 0 ? 1u : 0u) << r;
    }
    __m256 amax = _mm256_castsi256_ps(JoinLanes(magnitudes, [](__m256i a, __m256i b) {
      return _mm256_castps_si256(_mm256_max_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)));
    }));
    amax = _mm256_mask_mov_ps(amax, static_cast<__mmask8>(nan_rows),
                              _mm256_set1_ps(__builtin_nanf("")));
    const __mmask8 sound = _mm256_cmp_ps_mask(amax, _mm256_set1_ps(kSmallestAmax), _CMP_GE_OQ) &
                           _mm256_cmp_ps_mask(amax, _mm256_set1_ps(kLargestAmax), _CMP_LE_OQ);
    const __m256 scales = _mm256_div_ps(amax, _mm256_set1_ps(127.0f));
    alignas(32) float inverse[8];
    _mm256_store_ps(inverse, _mm256_maskz_div_ps(sound, _mm256_set1_ps(127.0f), amax));
    const int64_t at = b * out.rows + row;
    __m512i sums[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      sums[r] =
          RoundBlock(low[r], high[r], inverse[r], (sound >> r & 1) != 0, out.codes + (at + r) * 32);
    }
    const __m256i block_sums =
        JoinLanes(sums, [](__m256i a, __m256i b) { return _mm256_add_epi32(a, b); });
    _mm256_storeu_ps(out.scales + at, scales);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.code_sums + at), block_sums);
    group_sums = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(block_sums), group_sums);
    if ((b + 1) % group_blocks == 0 || b + 1 == blocks) {
      _mm256_storeu_ps(out.sums + b / group_blocks * out.rows + row, group_sums);
      group_sums = _mm256_setzero_ps();
    }
  }
}

void QuantizeRow(const QuantizeArgs& args, int64_t row) {
  const QuantActivations& out = args.out;
  const int64_t blocks = args.packed_inputs / 32, group_blocks = args.group_size / 32;
  float group_sum = 0;
  int64_t group = 0, group_end = group_blocks;
  for (int64_t b = 0; b < blocks; ++b) {
    __m512 low, high;
    LoadBlock(args, args.x + row * args.in_features, b, low, high);
    const int64_t at = b * out.rows + row;
    const int32_t sum = QuantizeBlock(low, high, out.codes + at * 32, out.scales + at);
    out.code_sums[at] = sum;
    group_sum = __builtin_fmaf(out.scales[at], static_cast<float>(sum), group_sum);
    if (b + 1 == group_end || b + 1 == blocks) {
      out.sums[group * out.rows + row] = group_sum;
      group_sum = 0;
      ++group;
      group_end += group_blocks;
    }
  }
}

void QuantizeRows(const QuantizeArgs& args, int64_t row_begin, int64_t row_end) {
  int64_t row = row_begin;
  for (; row + 8 <= row_end; row += 8) QuantizeEightRows(args, row);
  for (; row < row_end; ++row) QuantizeRow(args, row);
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_QUANTIZE_AVX512_INL_H_
