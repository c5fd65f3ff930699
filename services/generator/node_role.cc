#include "services/generator/node_role.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/common/net/listen_socket.h"
#include "services/generator/node_hub.h"
#include "spdlog/spdlog.h"

namespace qwenserve {

absl::Status CheckNodeFlags(const NodeFlags& flags, int tp) {
  if (flags.num_nodes < 1 || tp % flags.num_nodes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--num-nodes is ", flags.num_nodes,
                                                   ", must cut --tp (", tp, ") into equal parts"));
  }
  if (flags.node_rank < 0 || flags.node_rank >= flags.num_nodes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--node-rank is ", flags.node_rank, ", must be 0 to ", flags.num_nodes - 1));
  }
  if (flags.num_nodes == 1) return absl::OkStatus();
  if (flags.leader.empty()) {
    return absl::InvalidArgumentError("--num-nodes needs --leader HOST:PORT");
  }
  return CheckHostPort(flags.leader);
}

absl::StatusOr<std::unique_ptr<ServerRole>> NodeRole::Create(const NodeFlags& flags,
                                                             NodeFollowerOptions options,
                                                             ServerContext& context) {
  std::unique_ptr<NodeRole> role(new NodeRole(context));
  role->leader_ = JoinLeader(flags.leader, flags.node_rank, flags.num_nodes);
  role->thread_ = std::thread(
      [raw = role.get(), options = std::move(options)]() mutable { raw->Run(std::move(options)); });
  absl::MutexLock lock(&role->mutex_);
  role->mutex_.Await(absl::Condition(role.get(), &NodeRole::Decided));
  if (role->ended_ && !role->ready_) {
    return role->status_.ok() ? absl::UnavailableError("the leader has ended") : role->status_;
  }
  return role;
}

NodeRole::~NodeRole() {
  CloseStreams();
  if (thread_.joinable()) thread_.join();
}

void NodeRole::Run(NodeFollowerOptions options) {
  options.on_ready = [this] {
    absl::MutexLock lock(&mutex_);
    ready_ = true;
  };
  const absl::Status status = FollowNode(options, leader_);
  absl::MutexLock lock(&mutex_);
  ended_ = true;
  status_ = status;
  if (!ready_ || leaving_) return;
  mutex_.Await(absl::Condition(&serving_));
  context_.SetReady(false);
  if (!status.ok()) context_.Fail(status);
  spdlog::info("the leader has ended the replica");
  context_.RequestDrain();
}

void NodeRole::OnListening(const std::string& address) {
  context_.SetReady(true);
  absl::MutexLock lock(&mutex_);
  serving_ = true;
}

void NodeRole::OnDrain(absl::Duration time_left) {
  absl::MutexLock lock(&mutex_);
  if (!ended_) leader_->TellLeaving();
}

int64_t NodeRole::InFlight() {
  absl::MutexLock lock(&mutex_);
  return ended_ ? 0 : 1;
}

void NodeRole::CloseStreams() {
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(leaving_, true) || ended_) return;
  }
  leader_
      ->Send({.kind = NodeMessage::Kind::kAbort, .bytes = "a node of the replica is shutting down"})
      .IgnoreError();
  leader_->Close();
}

}  // namespace qwenserve
