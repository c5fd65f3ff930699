#ifndef QWENSERVE_KERNELS_CPU_KERNEL_TABLE_H_
#define QWENSERVE_KERNELS_CPU_KERNEL_TABLE_H_

#include <cstdint>

namespace qwenserve {

// The inner loops of CpuBackend, once per instruction set. All tables give the same bits: the
// orders of all sums are written down in kernels/README.md.
//
// The files behind the tables are compiled with flags that not every machine can run. So this
// header and all that they include hold plain structs only: an inline function here could be
// emitted from such a file and be picked by the linker for everybody.

// Columns of a packed panel and tokens of a KV block: what one tile of a kernel spans.
inline constexpr int64_t kPanelColumns = 16;

// A packed weight is [ceil(out_features / 16)][in_features][16] elements; rows past out_features
// are zeros. In bf16 a group of 16 is stored as columns 0 8 1 9 ... 7 15, which lets a kernel widen
// 16 of them by one shift and one mask. KV blocks group their columns in the same way.
struct LinearArgs {
  const float* x;  // [rows, in_features]
  int64_t rows;
  const void* weight;  // packed
  int64_t in_features;
  int64_t out_features;
  const float* bias;  // [out_features] or null
  float* out;         // [rows, out_features]
};

// Activations rounded for a quantised product, in blocks of 32 packed inputs: amax the block's
// largest magnitude, scale = amax / 127, code = x * (127 / amax) rounded to nearest, ties to even
// (all 0 where amax < 1e-30 or is not finite). Blocks are the outer axis, so that the rows of a
// tile lie together.
struct QuantActivations {
  int8_t* codes;  // [packed_inputs / 32][rows][32]
  float* scales;  // [packed_inputs / 32][rows]
  // [groups][rows]: s = 0; s = fma(scale, sum of the block's codes, s) over the group's blocks.
  float* sums;
  int32_t* code_sums;  // [packed_inputs / 32][rows], of each block
  int64_t rows;
};

// A block of smaller numbers counts as zeros: the inverse of its scale would not be finite.
inline constexpr float kSmallestAmax = 1e-30f, kLargestAmax = 3.402823466e38f;

struct QuantizeArgs {
  const float* x;  // [rows, in_features]
  int64_t in_features;
  const int32_t* input_order;  // [packed_inputs] or null, see QuantizedShape
  int64_t packed_inputs;
  int64_t group_size;
  QuantActivations out;
};

// A product with a quantised weight. Panels of 16 outputs p, K = packed_inputs:
//   int8  data [p][K / 4][16][4]: code - 128 as int8
//   int4  data [p][K / 8][16][4]: byte j of output o in unit u has input 8u + j in its low and
//         8u + 4 + j in its high half
//   scales [p][groups][16] fp16, zeros [p][groups][16]
// Rows past out_features have scale 0. Every table computes, for all rows alike:
//   acc = 0; for each group g: part = -(c * sums[g]), c = zero (int4: 8 without zeros) or
//   zero - 128 (int8; part = 0 without zeros); for each block b of g: part = fma(scales[b],
//   float(D), part), D the exact sum of stored code times activation code; acc = fma(part,
//   scale[g], acc); out = acc + bias.
struct QuantLinearArgs {
  QuantActivations x;
  const void* weight;
  const uint16_t* scales;
  const uint8_t* zeros;  // or null
  int64_t packed_inputs;
  int64_t group_size;
  int64_t out_features;
  const float* bias;  // [out_features] or null
  float* out;         // [rows, out_features]
};

// A product with bf16 weights by dots of bf16 pairs, where the machine has such an instruction. Its
// order and roundings are its own (kernels/README.md). Packed: [ceil(out_features / 16)][pairs][16]
// of two inputs each, the lower one in the lower half; an odd last input is paired with zero.
struct Bf16DotArgs {
  const uint32_t* x;  // [rows, pairs], rounded to bf16
  int64_t rows;
  const void* weight;
  int64_t pairs;  // ceil(in_features / 2)
  int64_t out_features;
  const float* bias;  // [out_features] or null
  float* out;         // [rows, out_features]
};

struct Bf16DotKernels {
  // Computes panels panel_begin..panel_end of out.
  void (*linear)(const Bf16DotArgs& args, int64_t panel_begin, int64_t panel_end);
  // out: [rows, ceil(in_features / 2)].
  void (*round_rows)(const float* x, int64_t rows, int64_t in_features, uint32_t* out);
  // The bare instruction on 16 lanes, which rounds in a way of its own on each make of machine.
  void (*dot)(const float* sums, const uint32_t* a, const uint32_t* b, float* out);
};

// Where one KV head of one layer lives: block b of the sequence is at
// data + block_table[b] * block_bytes, keys [head_dim][16 tokens] first, values
// [16 tokens][padded_dim] at value_offset, floats of the tokens at scale_offset: [16] key scales,
// [16] value scales, and for qwen-int8 [16] zeros of keys and of values. padded_dim is head_dim
// rounded up to 16.
struct KvHeadArgs {
  char* data;
  int64_t block_bytes;
  int64_t value_offset;
  int64_t scale_offset;
};

// Some query heads of one KV head for some consecutive rows of one sequence, over the segments
// segment_begin .. segment_end of its positions: from 0 to the last row's, or, with partials, any.
struct AttentionArgs {
  const float* q;  // first row, first head
  int64_t q_row_stride;
  int64_t rows;
  int64_t heads;
  int64_t head_dim;
  int64_t first_position;      // of the first row
  const int32_t* block_table;  // of the sequence
  KvHeadArgs kv;
  float scale;  // on q: log2(e) / sqrt(head_dim)
  int64_t segment_begin;
  int64_t segment_end;
  // Null: the result goes to out. Else each segment's softmax goes to partials, by segment
  // AttentionPartialFloats, and merge_attention makes the result of all when the last is there.
  float* partials;
  float* out;  // first row, first head
  int64_t out_row_stride;
  float* scratch;  // AttentionScratchFloats; not used by merge_attention
};
inline constexpr int64_t kMaxAttentionQueries = 96;  // rows * heads of one AttentionArgs
// Positions whose scores have one maximum; a part of the order of sums (kernels/README.md).
inline constexpr int64_t kAttentionSegment = 256;

struct NormRopeArgs {
  float* head;  // [head_dim], in place
  int64_t head_dim;
  const float* weight;  // [head_dim] or null: no norm
  float epsilon;
  const float* cos_sin;  // [head_dim / 2, 2]
  float scale;           // after the rotation
};

struct QuantLinearKernels {
  // As in KernelTable. int8, int4.
  void (*linear[2])(const QuantLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                    float* scratch);
};

struct KernelTable {
  const char* name;

  // Computes panels panel_begin..panel_end of out; scratch: kLinearScratchFloats.
  // Indexed by WeightFormat: f32, bf16, f16.
  void (*linear[3])(const LinearArgs& args, int64_t panel_begin, int64_t panel_end, float* scratch);
  // Null where bf16 weights are widened, in `linear`. Not null: they are packed in pairs, and
  // linear[bf16] is not used.
  const Bf16DotKernels* bf16_dot;

  // Rounds rows row_begin .. row_end of x.
  void (*quantize_rows)(const QuantizeArgs& args, int64_t row_begin, int64_t row_end);
  // Computes panels panel_begin..panel_end of out; scratch: kLinearScratchFloats. int8, int4.
  void (*quant_linear[2])(const QuantLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                          float* scratch);

  // Indexed by KvFormat.
  void (*attention[4])(const AttentionArgs& args);
  // out from the partials of all segments 0 .. segment_end.
  void (*merge_attention)(const AttentionArgs& args);
  // Stores one token's key and value head at `slot` of a block. Indexed likewise; qwen-int8 is
  // stored by qwen_int8_kv.
  void (*store_kv[3])(const float* key, const float* value, int64_t head_dim, int64_t slot,
                      char* block, const KvHeadArgs& kv);

  void (*norm_rope)(const NormRopeArgs& args);
  // out = x / sqrt(mean(x^2) + epsilon) * weight; residual (may be null) is added first and
  // updated.
  void (*rms_norm)(const float* x, int64_t width, float* residual, const float* weight,
                   float epsilon, float* out);
  void (*silu_mul)(const float* gate, const float* up, int64_t count, float* out);

  // Sampling (kernels/README.md, "Sample").
  // maxima[b] = the highest of x[b * kSampleBlock ...) within its block. False when there is a NaN
  // or +infinity; the maxima are then of no use.
  bool (*block_maxima)(const float* x, int64_t count, float* maxima);
  // p = exp((x - max) * inverse_temperature); returns the sum of p, each rounded to a multiple of
  // 2^-42, in these units. Exact, so no order of the sum is another result.
  int64_t (*weigh)(const float* x, int64_t count, float max, float inverse_temperature, float* p);
  // The first block, by its index, in which an id may have p / E above `bound`; the end of the last
  // whole block when there is none. Index i has the noise of id first_id + i under `key`.
  int64_t (*race_next)(const float* p, int64_t count, uint64_t key, int64_t first_id, double bound);
};

// K is cut into pieces of this size so that an expanded panel (20 KiB) stays in the first cache.
// The running sums go through memory as floats, which changes no bit.
inline constexpr int64_t kLinearDepthBlock = 320;
// At most so many rows at once: their inputs of one depth block stay in the second cache.
inline constexpr int64_t kLinearRowBlock = 240;
inline constexpr int64_t kLinearScratchFloats =
    (kLinearDepthBlock + kLinearRowBlock) * kPanelColumns;

// Ids of a vocabulary are looked at in blocks of this many.
inline constexpr int64_t kSampleBlock = 64;

extern const KernelTable kPortableKernels;
// Defined on x86-64 only.
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const Bf16DotKernels kAvx512Bf16Dot;
extern const QuantLinearKernels kAmxQuantLinear;
// Defined on 64 bit Arm only.
extern const KernelTable kNeonKernels;
extern const KernelTable kNeonDotKernels;

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_KERNEL_TABLE_H_
