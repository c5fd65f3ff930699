#include "kernels/cuda/attention/gpu_attention.h"

#include <cmath>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {
namespace {

constexpr int64_t kMaxGrid = 65535;  // of a grid's second and third dimension

GpuHeads HeadsOf(const HeadLayout& heads) {
  QS_CHECK(heads.num_query_heads > 0 && heads.num_kv_heads > 0 && heads.queries_per_kv > 0);
  QS_CHECK(heads.query_offset >= 0 && heads.query_offset < heads.queries_per_kv);
  QS_CHECK((heads.num_query_heads + heads.query_offset - 1) / heads.queries_per_kv + 1 ==
           heads.num_kv_heads);
  return {heads.num_query_heads, heads.num_kv_heads, heads.head_dim, heads.queries_per_kv,
          heads.query_offset};
}

GpuKvLayout LayoutOf(const HeadLayout& heads, KvFormat format) {
  QS_CHECK(format == KvFormat::kBf16 || format == KvFormat::kInt8);
  QS_CHECK(IsGpuHeadDim(heads.head_dim));
  return {heads.head_dim, format == KvFormat::kInt8};
}

template <int kDim, bool kInt8>
constexpr uint32_t SharedBytes(bool prefill) {
  return prefill ? PrefillMemory<kDim, kInt8>::kBytes
                 : SegmentMemory<kDim, kInt8>::kBytes + DecodeExchange::kBytes;
}

uint32_t SharedBytes(const GpuKvLayout& layout, bool prefill) {
  if (AttentionDimIndex(layout.head_dim) == 0) {
    return layout.int8 ? SharedBytes<64, true>(prefill) : SharedBytes<64, false>(prefill);
  }
  return layout.int8 ? SharedBytes<128, true>(prefill) : SharedBytes<128, false>(prefill);
}

AttentionArgs ArgsOf(const AttentionBatch& batch, const HeadLayout& heads, const float* qkv,
                     const KvLayer& kv, void* out) {
  return {.num_rows = static_cast<int32_t>(batch.num_rows),
          .num_sequences = static_cast<int32_t>(batch.num_sequences),
          .max_blocks = static_cast<int32_t>(batch.max_blocks),
          .positions = batch.positions,
          .sequences = batch.sequences,
          .row_starts = batch.row_starts,
          .block_tables = batch.block_tables,
          .heads = HeadsOf(heads),
          .layout = LayoutOf(heads, kv.format),
          .scale = static_cast<float>(std::numbers::log2e /
                                      std::sqrt(static_cast<double>(heads.head_dim))),
          .qkv = qkv,
          .kv = static_cast<const char*>(kv.data),
          .out = static_cast<uint16_t*>(out)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<GpuAttention>> GpuAttention::Create(
    GpuDevice& device, const AttentionKernels& kernels, const GpuAttentionOptions& options) {
  const int64_t wanted_blocks =
      options.wanted_blocks > 0 ? options.wanted_blocks : int64_t{8} * device.properties().num_sms;
  std::unique_ptr<GpuAttention> attention(new GpuAttention(device, kernels, wanted_blocks));
  absl::StatusOr<Buffer> partials = AllocateGpuBuffer(device, options.workspace_bytes);
  if (!partials.ok()) return partials.status();
  absl::StatusOr<Buffer> arrived =
      AllocateGpuBuffer(device, static_cast<size_t>(wanted_blocks) * sizeof(int32_t));
  if (!arrived.ok()) return arrived.status();
  attention->partials_ = *std::move(partials);
  attention->arrived_ = *std::move(arrived);
  return attention;
}

GpuAttention::GpuAttention(GpuDevice& device, const AttentionKernels& kernels,
                           int64_t wanted_blocks)
    : device_(device), kernels_(kernels), wanted_blocks_(wanted_blocks) {}

absl::Status GpuAttention::SupportsKv(KvFormat format, const HeadLayout& heads) const {
  if (format != KvFormat::kBf16 && format != KvFormat::kInt8) {
    return absl::UnimplementedError(
        absl::StrCat("on a GPU the KV cache is bf16 or int8, not ", KvFormatName(format)));
  }
  if (!IsGpuHeadDim(heads.head_dim)) {
    return absl::UnimplementedError(
        absl::StrCat("on a GPU the head size is a multiple of 16 up to ", kMaxGpuHeadDim, ", not ",
                     heads.head_dim));
  }
  return absl::OkStatus();
}

size_t GpuAttention::KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const {
  return static_cast<size_t>(LayoutOf(heads, format).block_bytes(heads.num_kv_heads));
}

void GpuAttention::NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads,
                                   const float* q_norm, const float* k_norm, float epsilon,
                                   absl::Span<const RopeTable> rope, float* qkv,
                                   const KvLayer& kv) {
  QS_CHECK(rope.size() <= kMaxRopeTables);
  if (batch.num_rows == 0) return;
  NormRopeStoreArgs args = {.num_rows = static_cast<int32_t>(batch.num_rows),
                            .max_blocks = static_cast<int32_t>(batch.max_blocks),
                            .positions = batch.positions,
                            .sequences = batch.sequences,
                            .block_tables = batch.block_tables,
                            .rope_tables = batch.rope_tables,
                            .query_scales = batch.query_scales,
                            .heads = HeadsOf(heads),
                            .layout = LayoutOf(heads, kv.format),
                            .q_norm = q_norm,
                            .k_norm = k_norm,
                            .epsilon = epsilon,
                            .qkv = qkv,
                            .kv = static_cast<char*>(kv.data)};
  for (size_t i = 0; i < rope.size(); ++i) args.rope[i] = rope[i].cos_sin;
  const int64_t warps = batch.num_rows * (heads.num_query_heads + heads.num_kv_heads);
  constexpr int64_t kWarps = kNormRopeThreads / 32;
  device_.Launch(
      kernels_.norm_rope_store,
      {.grid_x = static_cast<uint32_t>((warps + kWarps - 1) / kWarps), .overlaps_previous = true},
      args);
}

void GpuAttention::PagedAttention(const AttentionBatch& batch, const HeadLayout& heads,
                                  const float* qkv, const KvLayer& kv, void* out) {
  if (batch.num_rows == 0) return;
  const AttentionArgs args = ArgsOf(batch, heads, qkv, kv, out);
  if (batch.max_sequence_rows == 1) {
    LaunchDecode(args, true);
    return;
  }
  // Rows alone in their sequence are decode's, the others prefill's; which there are, only the
  // device knows.
  LaunchPrefill(args);
  LaunchDecode(args, false);
}

void GpuAttention::LaunchDecode(const AttentionArgs& attention, bool by_row) {
  const int64_t count = by_row ? attention.num_rows : attention.num_sequences;
  const GpuHeads& heads = attention.heads;
  const int64_t parts = int64_t{heads.num_kv_heads} * HeadTiles(heads);
  const DecodePlan plan = PlanDecode(count, heads, attention.max_blocks, wanted_blocks_,
                                     static_cast<int64_t>(partials_.bytes() / sizeof(float)));
  QS_CHECK(count <= kMaxGrid && plan.blocks <= kMaxGrid);
  QS_CHECK(plan.blocks == 1 || count * parts <= wanted_blocks_);
  const DecodeArgs args = {.attention = attention,
                           .by_row = by_row,
                           .plan = plan,
                           .partials = partials_.as<float>(),
                           .arrived = arrived_.as<int32_t>()};
  device_.Launch(kernels_.decode[AttentionDimIndex(heads.head_dim)][attention.layout.int8 ? 1 : 0],
                 {.grid_x = static_cast<uint32_t>(parts),
                  .grid_y = static_cast<uint32_t>(count),
                  .grid_z = static_cast<uint32_t>(plan.blocks),
                  .shared_bytes = SharedBytes(attention.layout, false),
                  .overlaps_previous = true},
                 args);
}

void GpuAttention::LaunchPrefill(const AttentionArgs& attention) {
  const GpuHeads& heads = attention.heads;
  const int64_t tiles =
      FirstPrefillTile(attention.num_rows, attention.num_sequences, heads.MaxGroup());
  QS_CHECK(tiles <= kMaxGrid);
  device_.Launch(kernels_.prefill[AttentionDimIndex(heads.head_dim)][attention.layout.int8 ? 1 : 0],
                 {.grid_x = static_cast<uint32_t>(heads.num_kv_heads),
                  .grid_y = static_cast<uint32_t>(tiles),
                  .shared_bytes = SharedBytes(attention.layout, true),
                  .overlaps_previous = true},
                 PrefillArgs{attention});
}

}  // namespace qwenserve
