#ifndef QWENSERVE_SERVICES_GENERATOR_NODE_ROLE_H_
#define QWENSERVE_SERVICES_GENERATOR_NODE_ROLE_H_

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/runtime/node_follower.h"
#include "services/common/server_main.h"
#include "services/generator/node_stream.h"

namespace qwenserve {

// Which of the nodes of a replica a generator is, and how they meet.
struct NodeFlags {
  int num_nodes = 1;
  int node_rank = 0;
  std::string leader;  // HOST:PORT at which node 0 listens for the others
};

// OK, or INVALID_ARGUMENT naming the flag.
absl::Status CheckNodeFlags(const NodeFlags& flags, int tp);

// The generator of a node other than the leader's: no gateway knows it; it has ranks, health and
// metrics. It ends when the leader ends, with status 0 after an orderly shutdown. Told to stop, it
// asks the leader to drain and goes on computing until that has ended.
class NodeRole final : public ServerRole {
 public:
  // Joins the leader, waiting until it is there, and loads. Errors are FollowNode's.
  static absl::StatusOr<std::unique_ptr<ServerRole>> Create(const NodeFlags& flags,
                                                            NodeFollowerOptions options,
                                                            ServerContext& context);
  ~NodeRole() override;

  std::vector<grpc::Service*> services() override { return {}; }
  void OnListening(const std::string& address) override;
  void OnDrain(absl::Duration time_left) override;
  // 1: the replica, until the leader has ended it.
  int64_t InFlight() override;
  // Without this node there is no replica.
  void CloseStreams() override;

 private:
  explicit NodeRole(ServerContext& context) : context_(context) {}
  void Run(NodeFollowerOptions options);
  bool Decided() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ready_ || ended_; }

  ServerContext& context_;
  std::shared_ptr<NodeStream> leader_;
  absl::Mutex mutex_;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;  // OnListening was called
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_NODE_ROLE_H_
