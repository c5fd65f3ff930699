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

// Where one KV head of one layer lives: block b of the sequence is at
// data + block_table[b] * block_bytes, keys [head_dim][16 tokens] first and values
// [16 tokens][padded_dim] at value_offset; padded_dim is head_dim rounded up to 16.
struct KvHeadArgs {
  char* data;
  int64_t block_bytes;
  int64_t value_offset;
};

// Some query heads of one KV head for some consecutive rows of one sequence.
struct AttentionArgs {
  const float* q;  // first row, first head
  int64_t q_row_stride;
  int64_t rows;
  int64_t heads;
  int64_t head_dim;
  int64_t first_position;      // of the first row
  const int32_t* block_table;  // of the sequence
  KvHeadArgs kv;
  float scale;  // on q
  float* out;   // first row, first head
  int64_t out_row_stride;
  float* scratch;  // AttentionScratchFloats(head_dim)
};
inline constexpr int64_t kMaxAttentionQueries = 36;  // rows * heads of one AttentionArgs

struct NormRopeArgs {
  float* head;  // [head_dim], in place
  int64_t head_dim;
  const float* weight;  // [head_dim] or null: no norm
  float epsilon;
  const float* cos_sin;  // [head_dim / 2, 2]
  float scale;           // after the rotation
};

struct KernelTable {
  const char* name;

  // Computes panels panel_begin..panel_end of out; scratch: kLinearScratchFloats.
  // Indexed by WeightFormat.
  void (*linear[3])(const LinearArgs& args, int64_t panel_begin, int64_t panel_end, float* scratch);

  // Indexed by DType of the cache; bf16 and f32 only.
  void (*attention[2])(const AttentionArgs& args);
  // Stores one token's key and value head at `slot` of a block. Indexed likewise.
  void (*store_kv[2])(const float* key, const float* value, int64_t head_dim, int64_t slot,
                      char* block, int64_t value_offset);

  void (*norm_rope)(const NormRopeArgs& args);
  // out = x / sqrt(mean(x^2) + epsilon) * weight; residual (may be null) is added first and
  // updated.
  void (*rms_norm)(const float* x, int64_t width, float* residual, const float* weight,
                   float epsilon, float* out);
  void (*silu_mul)(const float* gate, const float* up, int64_t count, float* out);
  void (*exp)(const float* x, int64_t count, float* out);
};

// K is cut into pieces of this size so that an expanded panel (16 KiB) stays in the first cache.
// The running sums go through memory as floats, which changes no bit.
inline constexpr int64_t kLinearDepthBlock = 256;
// Rows whose inputs of one depth block stay in the second cache.
inline constexpr int64_t kLinearRowBlock = 240;
inline constexpr int64_t kLinearScratchFloats =
    (kLinearDepthBlock + kLinearRowBlock) * kPanelColumns;

extern const KernelTable kPortableKernels;
extern const KernelTable kAvx2Kernels;  // defined on x86-64 only

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_KERNEL_TABLE_H_
