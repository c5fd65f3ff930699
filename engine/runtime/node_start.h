#ifndef QWENSERVE_ENGINE_RUNTIME_NODE_START_H_
#define QWENSERVE_ENGINE_RUNTIME_NODE_START_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/loader/checkpoint.h"
#include "engine/runtime/engine_options.h"
#include "engine/runtime/rank_settings.h"

namespace qwenserve {

// What the leader tells another node first: everything that its ranks must know.
struct NodeStart {
  int node = 1;
  int num_nodes = 2;
  RankMode mode = RankMode::kThreads;
  std::string checkpoint;           // CheckpointOutline of the leader's
  std::vector<RankSettings> ranks;  // of that node
};

// As JSON, for NodeMessage::Kind::kStart. INVALID_ARGUMENT for what contradicts itself.
std::string NodeStartToJson(const NodeStart& start);
absl::StatusOr<NodeStart> NodeStartFromJson(absl::string_view json);

// Hex; tells whether two nodes have the same checkpoint without reading all of it: a hash over the
// names, types and shapes of all tensors and over some bytes at the beginning and end of each.
std::string CheckpointOutline(const Checkpoint& checkpoint);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_NODE_START_H_
