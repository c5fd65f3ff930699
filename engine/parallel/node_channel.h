#ifndef QWENSERVE_ENGINE_PARALLEL_NODE_CHANNEL_H_
#define QWENSERVE_ENGINE_PARALLEL_NODE_CHANNEL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qwenserve {

// What the nodes of one group of ranks tell each other. Ranks are counted over all nodes.
struct NodeMessage {
  enum class Kind {
    kStart,        // leader: bytes = the node's part of the placement (runtime/node_start.h)
    kDeviceGroup,  // leader: bytes = DeviceGroup::id
    kPlan,         // leader: bytes = a serialised StepPlan
    kPart,         // `rank` has come to collective `number` with `bytes`, floats from `begin` on
    kPhase,        // `rank` has come to RankGroup::Phase `number`
    kProgress,     // `rank` has finished step `number`; also says that the node lives
    kAbort,        // the group has ended; bytes = why
  };
  Kind kind = Kind::kProgress;
  int rank = 0;
  uint64_t number = 0;
  uint32_t begin = 0;
  std::string bytes = {};
};

// The way from one node to another: messages in order, both ways. The engine is given one and does
// not know what carries it.
class NodeChannel {
 public:
  virtual ~NodeChannel() = default;

  // May wait until the other node has read some of what is under way. UNAVAILABLE when the channel
  // is broken or closed. Any thread.
  virtual absl::Status Send(const NodeMessage& message) = 0;
  // Waits for the next one. UNAVAILABLE as above, and soon when Send says so; but after the other
  // node's Close (or end) only behind all that it has sent. One thread.
  virtual absl::StatusOr<NodeMessage> Receive() = 0;
  // Ends both, also for the other node. Any thread, any number of times.
  virtual void Close() = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_PARALLEL_NODE_CHANNEL_H_
