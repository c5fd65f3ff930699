// A bridge without ranks and without another node.
#include "engine/parallel/node_bridge.h"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

// To a node that has gone after it said why: nothing can be sent any more, and its last words are
// read only after that was tried.
class ChannelToTheGone final : public NodeChannel {
 public:
  absl::Status Send(const NodeMessage&) override {
    std::lock_guard<std::mutex> lock(mutex_);
    ++refused_;
    changed_.notify_all();
    return absl::UnavailableError("the channel is closed");
  }
  absl::StatusOr<NodeMessage> Receive() override {
    std::unique_lock<std::mutex> lock(mutex_);
    // One thread tells the phase and then the progress, so the first refusal is behind it.
    changed_.wait(lock, [this] { return refused_ >= 2; });
    if (said_) return absl::UnavailableError("the channel is closed");
    said_ = true;
    return NodeMessage{.kind = NodeMessage::Kind::kAbort, .bytes = "the disk is full"};
  }
  void Close() override {}

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int refused_ = 0;
  bool said_ = false;
};

TEST(NodeBridge, AReasonThatWasGivenWinsOverTheLossThatFollows) {
  const std::shared_ptr<RankGroup> group = *RankGroup::Create(2);
  group->SetPhase(0, RankGroup::Phase::kReady);
  NodeBridge::Options options;
  options.carry_parts = false;
  NodeBridge bridge(group, {std::make_shared<ChannelToTheGone>()}, options);
  while (group->Health().ok()) std::this_thread::yield();
  while (group->Health().message() == "the rank group has ended") std::this_thread::yield();
  EXPECT_EQ(group->Health().message(), "the disk is full");
}

}  // namespace
}  // namespace qwenserve
