#include "engine/runtime/memory_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "engine/loader/planned_weights.h"
#include "engine/model/activations.h"
#include "engine/model/rope.h"
#include "engine/parallel/shard_plan.h"
#include "engine/runtime/measuring_backend.h"
#include "engine/runtime/row_sampler.h"
#include "engine/schedule/batch_builder.h"

namespace qwenserve {
namespace {

int64_t LengthOf(const ModelConfig& config, const MemoryRequest& request) {
  return request.max_model_len > 0 ? request.max_model_len : config.max_positions;
}

// Weights and workspace. All layers are alike, so one stands for all.
absl::Status PlanWeightMemory(const ModelConfig& config, const ShardPlan& shard,
                              const MemoryRequest& request, RankMemory* memory) {
  ModelConfig one_layer = config;
  one_layer.num_layers = 1;
  QS_ASSIGN_OR_RETURN(const std::vector<PlannedField> fields,
                      PlanWeights(one_layer, shard, request.weights));
  std::vector<PackedShape> matrices;
  for (const PlannedField& field : fields) {
    memory->weights +=
        PlannedBytes(field, request.device) * (field.layer >= 0 ? config.num_layers : 1);
    if (!IsVector(field.field)) matrices.push_back(PackedShapeOf(field));
  }
  memory->workspace = WorkspaceBytes(request.device, matrices, {.fast = request.fast});
  return absl::OkStatus();
}

// What ModelRunner takes beside weights and KV cache.
absl::StatusOr<int64_t> StepBytes(const ModelConfig& config, const ShardPlan& shard,
                                  const MemoryRequest& request) {
  MeasuringBackend backend(request.device);
  BatchLimits limits;
  limits.max_rows = request.max_rows;
  limits.max_sequences = request.max_sequences;
  limits.max_model_len = LengthOf(config, request);
  limits = WithFilling(limits, backend);
  QS_RETURN_IF_ERROR(
      MakeActivations(config, shard, limits.max_rows, limits.max_sequences, backend).status());
  QS_RETURN_IF_ERROR(DeviceBatch::Create(limits, backend).status());
  QS_RETURN_IF_ERROR(
      RowSampler::Create(request.tp, limits.max_sequences, request.sample_pairs, backend).status());
  const int64_t ids = limits.max_rows * static_cast<int64_t>(sizeof(int32_t));
  return backend.bytes() + RopeTables::Bytes(config, limits.max_model_len) +
         ids * (2 + (request.tp > 1 ? request.tp : 0));
}

absl::StatusOr<RankMemory> PlanRank(const ModelConfig& config, const MemoryRequest& request,
                                    int rank) {
  QS_ASSIGN_OR_RETURN(const ShardPlan shard, MakeShardPlan(config, request.tp, rank));
  const HeadLayout heads = shard.Heads(config);
  RankMemory memory;
  QS_RETURN_IF_ERROR(PlanWeightMemory(config, shard, request, &memory));
  QS_ASSIGN_OR_RETURN(memory.step, StepBytes(config, shard, request));
  memory.kv_block = KvBytesPerBlock(request.device, heads, request.kv_format) * config.num_layers;
  return memory;
}

bool Fits(const ModelConfig& config, const MemoryRequest& request, int64_t capacity) {
  const auto ranks = PlanMemory(config, request);
  return ranks.ok() &&
         BlocksThatFit(*ranks, request.device, capacity) >= BlocksFor(LengthOf(config, request));
}

// The longest max_model_len that fits, 0 when none does. What steps take grows with it, too.
int64_t LongestThatFits(const ModelConfig& config, MemoryRequest request, int64_t capacity) {
  int64_t fits = 0, too_long = BlocksFor(LengthOf(config, request));
  while (fits + 1 < too_long) {
    const int64_t middle = fits + (too_long - fits) / 2;
    request.max_model_len = middle * kKvBlockSize;
    (Fits(config, request, capacity) ? fits : too_long) = middle;
  }
  return fits * kKvBlockSize;
}

struct Change {
  MemoryRequest request;
  std::string flags;
};

// A change in one thing, the smallest first.
std::vector<Change> WeightChanges(const ModelConfig& config, const MemoryRequest& request) {
  std::vector<Change> changes;
  const bool wide =
      request.weights == WeightChoice::kAuto || request.weights == WeightChoice::kBf16;
  for (const WeightChoice choice : {WeightChoice::kInt8, WeightChoice::kInt4}) {
    if (!wide && !(request.weights == WeightChoice::kInt8 && choice == WeightChoice::kInt4))
      continue;
    if (!CheckWeightChoice(config, choice, "").ok()) continue;
    changes.push_back({request, absl::StrCat("--weights ", WeightChoiceName(choice))});
    changes.back().request.weights = choice;
  }
  return changes;
}

std::vector<Change> KvChanges(const MemoryRequest& request) {
  if (request.kv_format != KvFormat::kBf16 && request.kv_format != KvFormat::kF32) return {};
  Change change = {request, "--kv-dtype int8"};
  change.request.kv_format = KvFormat::kInt8;
  return {change};
}

// More ranks help only where each brings memory of its own.
std::vector<Change> RankChanges(const MemoryRequest& request) {
  std::vector<Change> changes;
  if (request.device == DeviceKind::kCpu) return changes;
  for (const int tp : {2, 4, 8}) {
    if (tp <= request.tp) continue;
    changes.push_back({request, absl::StrCat("--tp ", tp)});
    changes.back().request.tp = tp;
  }
  return changes;
}

}  // namespace

DeviceKind KindOf(absl::string_view device) {
  return device == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
}

MemoryRequest RequestOf(const RankSettings& settings) {
  MemoryRequest request;
  request.device = KindOf(settings.device);
  request.weights = settings.weights;
  request.kv_format = settings.kv_format;
  request.tp = settings.tp;
  request.max_rows = settings.limits.max_rows;
  request.max_sequences = settings.limits.max_sequences;
  request.max_model_len = settings.limits.max_model_len;
  request.sample_pairs = settings.sample_pairs;
  request.fast = settings.gpu_mode == "fast";
  return request;
}

absl::StatusOr<std::vector<RankMemory>> PlanMemory(const ModelConfig& config,
                                                   const MemoryRequest& request) {
  std::vector<RankMemory> ranks;
  for (int rank = 0; rank < request.tp; ++rank) {
    QS_ASSIGN_OR_RETURN(const RankMemory memory, PlanRank(config, request, rank));
    ranks.push_back(memory);
  }
  return ranks;
}

const RankMemory& LargestRank(const std::vector<RankMemory>& ranks, int64_t blocks) {
  return *std::max_element(
      ranks.begin(), ranks.end(), [blocks](const RankMemory& a, const RankMemory& b) {
        return a.fixed() + blocks * a.kv_block < b.fixed() + blocks * b.kv_block;
      });
}

int64_t BlocksThatFit(const std::vector<RankMemory>& ranks, DeviceKind device, int64_t capacity) {
  const auto blocks = [](int64_t room, int64_t block) { return room < 0 ? -1 : room / block; };
  int64_t fixed = 0, block = 0, fewest = INT64_MAX;
  for (const RankMemory& rank : ranks) {
    fixed += rank.fixed();
    block += rank.kv_block;
    fewest = std::min(fewest, blocks(capacity - rank.fixed(), rank.kv_block));
  }
  return device == DeviceKind::kCpu ? blocks(capacity - fixed, 2 * block) : fewest;
}

std::string WhatWouldFit(const ModelConfig& config, const MemoryRequest& request,
                         int64_t capacity) {
  std::vector<std::string> found;
  const auto try_first = [&](const std::vector<Change>& changes) {
    for (const Change& change : changes) {
      if (!Fits(config, change.request, capacity)) continue;
      found.push_back(change.flags);
      return;
    }
  };
  if (const int64_t length = LongestThatFits(config, request, capacity); length > 0) {
    found.push_back(absl::StrCat("--max-model-len ", length));
  }
  try_first(KvChanges(request));
  try_first(WeightChanges(config, request));
  try_first(RankChanges(request));
  if (!found.empty()) return absl::StrJoin(found, ", or ");

  std::vector<Change> ranks = RankChanges(request);
  ranks.insert(ranks.begin(), {request, ""});
  for (const Change& rank : ranks) {
    std::vector<Change> several = WeightChanges(config, rank.request);
    several.insert(several.begin(), {rank.request, ""});
    for (size_t i = 0, count = several.size(); i < count; ++i) {
      for (Change change : KvChanges(several[i].request)) {
        change.flags = absl::StrCat(several[i].flags, " ", change.flags);
        several.push_back(std::move(change));
      }
    }
    for (const Change& change : several) {
      const std::string flags = absl::StrCat(rank.flags, " ", change.flags);
      if (Fits(config, change.request, capacity)) {
        return absl::StrJoin(absl::StrSplit(flags, ' ', absl::SkipEmpty()), " ");
      }
    }
  }
  return "nothing that this server has";
}

std::string SizeText(int64_t bytes) {
  const auto size = static_cast<double>(bytes);
  constexpr double kMebi = 1 << 20, kGibi = 1 << 30;
  return size < kGibi ? absl::StrFormat("%.1f MiB", size / kMebi)
                      : absl::StrFormat("%.2f GiB", size / kGibi);
}

std::string DescribeRank(const RankMemory& rank) {
  return absl::StrCat(SizeText(rank.weights), " of weights, ", SizeText(rank.step), " for steps, ",
                      SizeText(rank.workspace), " of the kernels' own, ",
                      rank.kv_block / kKvBlockSize, " bytes of KV cache per token");
}

}  // namespace qwenserve
