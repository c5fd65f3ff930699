#ifndef QWENSERVE_ENGINE_RUNTIME_KV_SIZING_H_
#define QWENSERVE_ENGINE_RUNTIME_KV_SIZING_H_

#include "absl/status/status.h"
#include "engine/model/model_config.h"
#include "engine/runtime/rank_settings.h"
#include "engine/schedule/batch_builder.h"
#include "kernels/backend.h"
#include "kernels/communicator.h"

namespace qwenserve {

// The memory of a device, before and after loading. Nothing is asked of a backend without memory of
// its own.

// Whether what the plan says of this rank has room on its device, before anything is loaded.
// RESOURCE_EXHAUSTED with the arithmetic and what would fit.
absl::Status CheckRoom(const RankSettings& settings, const ModelConfig& config,
                       const Backend& backend);

// Decides *limits' num_blocks where it is 0, when all but the KV cache is there: what the memory
// fraction leaves, on the rank that has least. max_model_len becomes what the blocks hold where the
// settings allow that. All ranks call it, and decide alike. `mine`: device memory of one int32,
// `all`: of one for each rank, where there are several.
//
// RESOURCE_EXHAUSTED with the arithmetic and what would fit; UNAVAILABLE when another rank is gone.
absl::Status SizeKvCache(const RankSettings& settings, const ModelConfig& config,
                         int64_t block_bytes, Backend& backend, Communicator& communicator,
                         Buffer& mine, Buffer& all, BatchLimits* limits);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_KV_SIZING_H_
