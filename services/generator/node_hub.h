#ifndef QWENSERVE_SERVICES_GENERATOR_NODE_HUB_H_
#define QWENSERVE_SERVICES_GENERATOR_NODE_HUB_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/parallel/node_channel.h"
#include "grpcpp/server.h"
#include "qwenserve/v1/nodes.grpc.pb.h"
#include "services/generator/node_stream.h"

namespace qwenserve {

// Where the other nodes of a replica come to the leader: a port of its own, open before anything is
// loaded. Whoever reaches it can join, so it belongs into the network that the nodes share, as
// NCCL's ports do. Thread-safe.
class NodeHub final : public v1::Nodes::CallbackService {
 public:
  // INVALID_ARGUMENT for a malformed HOST:PORT (port 0 takes a free one), UNAVAILABLE when it can't
  // be bound. `on_leaving`: a node was told to stop, and waits for the leader to end the replica;
  // from threads of gRPC's.
  static absl::StatusOr<std::unique_ptr<NodeHub>> Listen(
      const std::string& address, int num_nodes,
      std::function<void(int node_rank)> on_leaving = [](int) {});
  ~NodeHub() override;

  // With the port in use.
  const std::string& address() const { return address_; }

  // Nodes that have come and not gone, until the channels are handed out.
  int num_waiting();

  // The channels to nodes 1, 2, ...; waits until all have come, and says in the log for whom.
  // Afterwards no node can join any more.
  std::vector<std::shared_ptr<NodeChannel>> WaitForAll();

  grpc::ServerBidiReactor<v1::NodeMessage, v1::NodeMessage>* Join(
      grpc::CallbackServerContext* context) override;

 private:
  class Stream;

  NodeHub(int num_nodes, std::function<void(int)> on_leaving)
      : num_nodes_(num_nodes), on_leaving_(std::move(on_leaving)) {}
  absl::Status Greet(const v1::NodeHello& hello, std::shared_ptr<NodeChannel> stream);
  void Forget(const NodeChannel* stream);
  bool Complete() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const int num_nodes_;
  const std::function<void(int)> on_leaving_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  absl::Mutex mutex_;
  std::map<int, std::shared_ptr<NodeChannel>> joined_ ABSL_GUARDED_BY(mutex_);
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
};

// Node `node_rank`'s channel to the leader: tries until the leader answers. The error is the
// leader's refusal as soon as something is received. Ends when it is let go, which waits for gRPC
// and so must not happen on a thread of gRPC's.
std::shared_ptr<NodeStream> JoinLeader(const std::string& address, int node_rank, int num_nodes);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_NODE_HUB_H_
