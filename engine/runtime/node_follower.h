#ifndef QWENSERVE_ENGINE_RUNTIME_NODE_FOLLOWER_H_
#define QWENSERVE_ENGINE_RUNTIME_NODE_FOLLOWER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/parallel/node_channel.h"

namespace qwenserve {

// What a node other than the leader's knows by itself.
struct NodeFollowerOptions {
  std::string model_dir;     // the same checkpoint as the leader's
  std::string rank_binary;   // see EngineOptions
  std::string nccl_library;  // empty: as the leader says
  // Called once when all ranks of all nodes are ready.
  std::function<void()> on_ready = nullptr;
};

// Runs this node's ranks: takes the start from the leader, loads, and does what the plans say until
// one says shutdown (OK) or the group ends (why). Errors of this node are told to the leader, too.
// FAILED_PRECONDITION when the checkpoint is not the leader's.
absl::Status FollowNode(const NodeFollowerOptions& options, std::shared_ptr<NodeChannel> leader);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_NODE_FOLLOWER_H_
