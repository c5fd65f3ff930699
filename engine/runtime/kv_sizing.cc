#include "engine/runtime/kv_sizing.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "engine/runtime/memory_plan.h"
#include "kernels/check.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

// What may be taken of a device's memory: all but the reserve and what is taken already.
struct Room {
  DeviceMemory memory;
  double fraction = 1;

  int64_t allowed() const {
    return static_cast<int64_t>(fraction * static_cast<double>(memory.total_bytes));
  }
  int64_t taken() const { return static_cast<int64_t>(memory.total_bytes - memory.free_bytes); }
  int64_t left() const { return allowed() - taken(); }
  std::string text() const {
    return absl::StrCat(SizeText(left()), " (", static_cast<int>(fraction * 100 + 0.5), " % of ",
                        SizeText(static_cast<int64_t>(memory.total_bytes)), " less ",
                        SizeText(taken()), " that is taken)");
  }
};

// The fewest of all ranks.
absl::StatusOr<int32_t> FewestOf(int32_t blocks, Backend& backend, Communicator& communicator,
                                 Buffer& mine, Buffer& all) {
  if (communicator.size() == 1) return blocks;
  std::vector<int32_t> counts(static_cast<size_t>(communicator.size()));
  QS_CHECK(mine.bytes() >= sizeof(blocks) && all.bytes() >= counts.size() * sizeof(blocks));
  backend.CopyToDevice(&blocks, sizeof(blocks), mine.data());
  // A gather only moves bits, so counts can travel as floats.
  QS_RETURN_IF_ERROR(communicator.AllGather(mine.as<float>(), 1, 1, all.as<float>()));
  backend.CopyToHost(all.data(), counts.size() * sizeof(blocks), counts.data());
  QS_RETURN_IF_ERROR(backend.Sync());
  return *std::min_element(counts.begin(), counts.end());
}

// Blocks without which no request can be served.
int64_t LeastBlocks(const RankSettings& settings) {
  return settings.kv_sizing.may_shorten ? 1 : BlocksFor(settings.limits.max_model_len);
}

std::string Advice(const RankSettings& settings, const ModelConfig& config, int64_t capacity) {
  return absl::StrCat("what would fit: ", WhatWouldFit(config, RequestOf(settings), capacity));
}

}  // namespace

absl::Status CheckRoom(const RankSettings& settings, const ModelConfig& config,
                       const Backend& backend) {
  const std::optional<DeviceMemory> memory = backend.memory();
  if (!memory.has_value()) return absl::OkStatus();
  const Room room = {*memory, settings.kv_sizing.memory_fraction};
  QS_ASSIGN_OR_RETURN(const std::vector<RankMemory> ranks, PlanMemory(config, RequestOf(settings)));
  const RankMemory& mine = ranks[static_cast<size_t>(settings.rank)];
  const int64_t blocks =
      settings.limits.num_blocks > 0 ? settings.limits.num_blocks : LeastBlocks(settings);
  const int64_t needed = mine.fixed() + blocks * mine.kv_block;
  if (needed <= room.left()) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the model does not fit: rank ", settings.rank, " of ", settings.tp, " needs ",
      SizeText(needed), " (", DescribeRank(mine), ", ", blocks * kKvBlockSize,
      " tokens), its device has ", room.text(), "; ", Advice(settings, config, room.left())));
}

absl::Status SizeKvCache(const RankSettings& settings, const ModelConfig& config,
                         int64_t block_bytes, Backend& backend, Communicator& communicator,
                         Buffer& mine, Buffer& all, BatchLimits* limits) {
  if (limits->num_blocks > 0) return absl::OkStatus();
  const std::optional<DeviceMemory> memory = backend.memory();
  QS_CHECK(memory.has_value());
  const Room room = {*memory, settings.kv_sizing.memory_fraction};
  const int64_t fit =
      std::clamp<int64_t>(room.left() / block_bytes, 0, settings.kv_sizing.most_blocks);
  QS_ASSIGN_OR_RETURN(const int32_t blocks,
                      FewestOf(static_cast<int32_t>(fit), backend, communicator, mine, all));
  const int64_t tokens = int64_t{blocks} * kKvBlockSize;
  const std::string arithmetic = absl::StrCat(
      "KV cache: ", SizeText(blocks * block_bytes), " per rank, ", blocks, " blocks, ", tokens,
      " tokens; beside weights and buffers rank ", settings.rank, " has ", room.text());
  if (blocks < LeastBlocks(settings)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(arithmetic, ", which is not enough for max_model_len ", limits->max_model_len,
                     "; ", Advice(settings, config, room.allowed())));
  }
  limits->num_blocks = blocks;
  if (settings.rank == 0) spdlog::info("{}", arithmetic);
  if (tokens < limits->max_model_len) {
    if (settings.rank == 0) {
      spdlog::info("max_model_len: {} instead of {}, since the KV cache holds no more", tokens,
                   limits->max_model_len);
    }
    limits->max_model_len = tokens;
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
