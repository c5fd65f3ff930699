#ifndef QWENSERVE_KERNELS_ATTENTION_BATCH_H_
#define QWENSERVE_KERNELS_ATTENTION_BATCH_H_

#include <cstdint>

#include "kernels/kv_format.h"

namespace qwenserve {

// Tokens per KV block. Also the step of the attention kernels' reduction: scores are combined block
// by block at absolute positions, so a row's bits do not depend on how its prefill was cut.
inline constexpr int kKvBlockSize = 16;

// One step's rows. A row is one token of one sequence; rows of a sequence are consecutive and their
// positions ascend by one. A decode row and a row in a chunk of prefill are the same thing: each
// attends to all positions up to its own, whose keys and values are in the cache (this step's own
// are stored by NormRopeStoreKv before PagedAttention reads them).
// All pointers are device memory of the backend, not owned.
struct AttentionBatch {
  int64_t num_rows = 0;
  int64_t num_sequences = 0;
  int64_t max_sequence_rows = 0;        // at most so many rows of one sequence; 0 = not known
  const int32_t* positions = nullptr;   // [num_rows] in the sequence; -1: filling (PaddedRows)
  const int32_t* sequences = nullptr;   // [num_rows] index into row_starts and block_tables
  const int32_t* row_starts = nullptr;  // [num_sequences + 1]
  const int32_t* block_tables =
      nullptr;  // [num_sequences, max_blocks] block of positions 16i..16i+15
  int64_t max_blocks = 0;
  const int32_t* rope_tables = nullptr;  // [num_rows] which rope table rotates the row, or null = 0
  const float* query_scales = nullptr;  // [num_rows] factor on q after rotation (logn), or null = 1
};

// Keys and values of one layer. The layout inside is private to the backend (KvBytesPerBlock).
struct KvLayer {
  void* data = nullptr;  // num_blocks * KvBytesPerBlock bytes
  int64_t num_blocks = 0;
  KvFormat format = KvFormat::kBf16;
};

// The heads that this rank computes. Query heads may split unevenly over ranks; a rank holds every
// KV head that its query heads use: local query head i reads local KV head
// (i + query_offset) / queries_per_kv.
struct HeadLayout {
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t queries_per_kv = 1;
  int32_t query_offset = 0;  // position of the first local query head inside its KV head's group

  int64_t query_width() const { return int64_t{num_query_heads} * head_dim; }
  int64_t kv_width() const { return int64_t{num_kv_heads} * head_dim; }
  int64_t qkv_width() const { return query_width() + 2 * kv_width(); }
};

// cos and sin of every position: float [max_positions, head_dim / 2, 2], device memory, not owned.
struct RopeTable {
  const float* cos_sin = nullptr;
  int64_t max_positions = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_ATTENTION_BATCH_H_
