#include "engine/parallel/node_bridge.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"
#include "kernels/steady_clock.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(20);
constexpr absl::Duration kBeat = absl::Milliseconds(500);

int64_t NowNanos() { return absl::ToInt64Nanoseconds(SteadyClock::Real().Now()); }

std::vector<int> RanksFrom(int first, int count) {
  std::vector<int> ranks;
  for (int r = first; r < first + count; ++r) ranks.push_back(r);
  return ranks;
}

}  // namespace

NodeBridge::NodeBridge(std::shared_ptr<RankGroup> group,
                       std::vector<std::shared_ptr<NodeChannel>> channels, const Options& options)
    : group_(std::move(group)),
      options_(options),
      ranks_per_node_(group_->size() / options.num_nodes) {
  QS_CHECK(group_->size() == ranks_per_node_ * options.num_nodes);
  QS_CHECK(channels.size() == (is_leader() ? static_cast<size_t>(options.num_nodes - 1) : 1));
  for (size_t i = 0; i < channels.size(); ++i) {
    peers_.push_back(std::make_unique<Peer>());
    peers_.back()->channel = std::move(channels[i]);
    peers_.back()->node = is_leader() ? static_cast<int>(i) + 1 : 0;
    peers_.back()->heard_nanos = NowNanos();
  }
  // Before the threads, which use it.
  if (!is_leader()) {
    local_plans_ = std::make_unique<PlanSender>(group_, RanksFrom(first_rank(), ranks_per_node_),
                                                options_.step_timeout);
  }
  for (const auto& peer : peers_) {
    threads_.emplace_back([this, raw = peer.get()] { ReceiveFrom(*raw); });
  }
  state_thread_ = std::thread([this] { CarryState(); });
  if (is_leader()) threads_.emplace_back([this] { CarryPlans(); });
  if (!options_.carry_parts) return;
  for (int rank : RanksFrom(first_rank(), ranks_per_node_)) {
    threads_.emplace_back([this, rank] { CarryParts(rank); });
  }
}

NodeBridge::~NodeBridge() {
  stop_ = true;
  state_thread_.join();               // has told the last phases, or why the group has ended
  group_->Abort("the replica ends");  // so that no thread waits any more
  for (const auto& peer : peers_) peer->channel->Close();
  for (std::thread& thread : threads_) thread.join();
}

bool NodeBridge::AllEnded(int node) const {
  for (int rank : RanksFrom(node * ranks_per_node_, ranks_per_node_)) {
    if (group_->phase(rank) != static_cast<uint32_t>(RankGroup::Phase::kEnded)) return false;
  }
  return true;
}

void NodeBridge::SendToAll(const NodeMessage& message, const Peer* except) {
  for (const auto& peer : peers_) {
    if (peer.get() == except) continue;
    // What cannot be sent says only that the peer is gone. Why it went may still wait to be read,
    // so the judgement is left to who reads: a channel that is broken ends that, too.
    peer->channel->Send(message).IgnoreError();
  }
}

void NodeBridge::Lose(const Peer& peer, absl::string_view why) {
  // Nodes go when all is done; the leader is told so before it closes, but not the others.
  if (stop_ || AllEnded(peer.node) || AllEnded(options_.node)) return;
  group_->Abort(absl::StrCat("node ", peer.node, " is lost: ", why));
}

void NodeBridge::ReceiveFrom(Peer& peer) {
  while (true) {
    absl::StatusOr<NodeMessage> message = peer.channel->Receive();
    if (!message.ok()) return Lose(peer, message.status().message());
    peer.heard_nanos = NowNanos();
    absl::Status taken = Take(peer, *message);
    if (!taken.ok()) {
      group_->Abort(absl::StrCat("node ", peer.node, ": ", taken.message()));
      return;
    }
    const bool for_all = message->kind == NodeMessage::Kind::kPart ||
                         message->kind == NodeMessage::Kind::kPhase ||
                         message->kind == NodeMessage::Kind::kAbort;
    if (for_all && is_leader()) SendToAll(*message, &peer);
  }
}

// The leader speaks for everybody else, the others for themselves.
absl::Status NodeBridge::CheckSender(const Peer& from, const NodeMessage& message) const {
  const int node = message.rank < 0 ? -1 : message.rank / ranks_per_node_;
  const bool known =
      is_leader() ? node == from.node : node != options_.node && message.rank < group_->size();
  if (node >= 0 && known) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("speaks of rank ", message.rank));
}

absl::Status NodeBridge::Take(const Peer& from, const NodeMessage& message) {
  const int rank = message.rank;
  switch (message.kind) {
    case NodeMessage::Kind::kPlan:
    case NodeMessage::Kind::kDeviceGroup:
      if (is_leader()) return absl::InternalError("behaves as a leader");
      if (message.kind == NodeMessage::Kind::kPlan) return local_plans_->Send(message.bytes);
      if (message.bytes.size() > RankGroup::kMaxDeviceGroupId ||
          !group_->device_group_id().empty()) {
        return absl::InternalError("gives a second or too long identity of the devices");
      }
      group_->SetDeviceGroupId(message.bytes);
      return absl::OkStatus();
    case NodeMessage::Kind::kPart: {
      QS_RETURN_IF_ERROR(CheckSender(from, message));
      SharedCounter& arrived = group_->arrived(rank);
      const auto number = static_cast<uint32_t>(message.number);
      const size_t count = message.bytes.size() / sizeof(float);
      if (number != arrived.value + 1 || message.bytes.size() % sizeof(float) != 0 ||
          message.begin + count > group_->slot_floats()) {
        return absl::InternalError(absl::StrCat("sends an impossible part of rank ", rank));
      }
      std::memcpy(group_->slot(rank, (number - 1) % 2) + message.begin, message.bytes.data(),
                  message.bytes.size());
      Advance(arrived, number);
      return absl::OkStatus();
    }
    case NodeMessage::Kind::kPhase:
      QS_RETURN_IF_ERROR(CheckSender(from, message));
      if (message.number > static_cast<uint64_t>(RankGroup::Phase::kEnded)) {
        return absl::InternalError(absl::StrCat("knows a phase ", message.number));
      }
      group_->SetPhase(rank, static_cast<RankGroup::Phase>(message.number));
      return absl::OkStatus();
    case NodeMessage::Kind::kProgress:
      QS_RETURN_IF_ERROR(CheckSender(from, message));
      group_->EndStep(rank, message.number);
      return absl::OkStatus();
    case NodeMessage::Kind::kAbort:
      group_->Abort(message.bytes);
      return absl::OkStatus();
    case NodeMessage::Kind::kStart:
      break;
  }
  return absl::InternalError("begins a second time");
}

void NodeBridge::CarryPlans() {
  PlanReceiver receiver(group_, plan_reader());
  while (true) {
    absl::StatusOr<std::string> plan = receiver.Receive();
    if (!plan.ok()) return;
    SendToAll({.kind = NodeMessage::Kind::kPlan, .bytes = *std::move(plan)});
  }
}

// A buffer is written again only when all ranks have come to the next collective, and those of
// other nodes come there only with this part: it is read in time.
void NodeBridge::CarryParts(int rank) {
  for (uint32_t number = 1;; ++number) {
    const absl::Status arrived = group_->Wait(
        group_->arrived(rank), number, absl::InfiniteDuration(), rank, "its next collective");
    if (!arrived.ok()) return;
    const int buffer = (number - 1) % 2;
    const RankGroup::Part part = group_->part(rank, buffer);
    const char* data = reinterpret_cast<const char*>(group_->slot(rank, buffer) + part.begin);
    SendToAll({.kind = NodeMessage::Kind::kPart,
               .rank = rank,
               .number = number,
               .begin = part.begin,
               .bytes = std::string(data, part.count * sizeof(float))});
  }
}

void NodeBridge::SendProgress() {
  for (int rank : RanksFrom(first_rank(), ranks_per_node_)) {
    SendToAll({.kind = NodeMessage::Kind::kProgress,
               .rank = rank,
               .number = group_->Progress(rank).step});
  }
  const int64_t oldest = NowNanos() - absl::ToInt64Nanoseconds(kSilence);
  for (const auto& peer : peers_) {
    if (peer->heard_nanos < oldest) {
      Lose(*peer, absl::StrCat("it has been silent for ", absl::FormatDuration(kSilence)));
    }
  }
}

void NodeBridge::CarryState() {
  std::vector<uint32_t> told(ranks_per_node_, 0);
  bool told_devices = !is_leader();
  absl::Duration next_beat;
  for (bool last = false; !last;) {
    last = stop_;
    if (absl::Status health = group_->Health(); !health.ok()) {
      if (options_.on_failure != nullptr) options_.on_failure();
      return SendToAll({.kind = NodeMessage::Kind::kAbort, .bytes = std::string(health.message())});
    }
    if (!told_devices && !group_->device_group_id().empty()) {
      told_devices = true;
      SendToAll({.kind = NodeMessage::Kind::kDeviceGroup, .bytes = group_->device_group_id()});
    }
    for (int i = 0; i < ranks_per_node_; ++i) {
      const int rank = first_rank() + i;
      const uint32_t phase = group_->phase(rank);
      if (phase == std::exchange(told[i], phase)) continue;
      SendToAll({.kind = NodeMessage::Kind::kPhase, .rank = rank, .number = phase});
    }
    if (SteadyClock::Real().Now() >= next_beat) {
      next_beat = SteadyClock::Real().Now() + kBeat;
      SendProgress();
    }
    if (!last) SteadyClock::Real().Sleep(kLook);
  }
}

}  // namespace qwenserve
