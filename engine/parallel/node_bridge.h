#ifndef QWENSERVE_ENGINE_PARALLEL_NODE_BRIDGE_H_
#define QWENSERVE_ENGINE_PARALLEL_NODE_BRIDGE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/parallel/node_channel.h"
#include "engine/parallel/plan_ring.h"
#include "engine/parallel/rank_group.h"

namespace qwenserve {

// Makes the RankGroups of several nodes, one on each, look like one: what a rank writes into its
// node's memory appears in the others'. So ranks, communicators and the ring of plans do on several
// nodes what they do on one, and compute the same bits.
//
// The nodes form a star: every other node has a channel to the leader's (rank 0's), which passes on
// what all must know. Carried are plans, phases, progress, the identity of a group of devices and
// the group's end, and, where collectives go through the host's memory, their parts. The last is
// slow next to a device's own network: two crossings of the network per collective.
//
// A node whose channel breaks, or that says nothing for kSilence, ends the group.
class NodeBridge {
 public:
  static constexpr absl::Duration kSilence = absl::Seconds(4);

  struct Options {
    int node = 0;  // 0: the leader's
    int num_nodes = 2;
    bool carry_parts = true;  // collectives go through the group's memory
    absl::Duration step_timeout = absl::Seconds(120);
    // Called once when the group has ended, from a thread of the bridge; null: nobody.
    std::function<void()> on_failure = nullptr;
  };

  // The group has all ranks, the same number on each node, in order. channels: of the leader to
  // nodes 1, 2, ...; of another node to the leader.
  NodeBridge(std::shared_ptr<RankGroup> group, std::vector<std::shared_ptr<NodeChannel>> channels,
             const Options& options);
  // When the group has ended or its ranks have: tells the other nodes which, and closes the
  // channels.
  ~NodeBridge();

  // The reader of the leader's ring of plans that stands for all other nodes.
  int plan_reader() const { return ranks_per_node_; }

 private:
  struct Peer {
    std::shared_ptr<NodeChannel> channel;
    int node = 0;
    std::atomic<int64_t> heard_nanos{0};
  };

  bool is_leader() const { return options_.node == 0; }
  int first_rank() const { return options_.node * ranks_per_node_; }
  bool AllEnded(int node) const;
  void SendToAll(const NodeMessage& message, const Peer* except = nullptr);
  void ReceiveFrom(Peer& peer);
  absl::Status Take(const Peer& from, const NodeMessage& message);
  absl::Status CheckSender(const Peer& from, const NodeMessage& message) const;
  void CarryPlans();
  void CarryParts(int rank);
  void CarryState();
  void SendProgress();
  void Lose(const Peer& peer, absl::string_view why);

  const std::shared_ptr<RankGroup> group_;
  const Options options_;
  const int ranks_per_node_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::unique_ptr<PlanSender> local_plans_;  // not on the leader's node
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
  std::thread state_thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_PARALLEL_NODE_BRIDGE_H_
