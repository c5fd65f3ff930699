#ifndef QWENSERVE_TESTS_ENGINE_PARALLEL_CHANNEL_PAIR_H_
#define QWENSERVE_TESTS_ENGINE_PARALLEL_CHANNEL_PAIR_H_

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "engine/parallel/node_channel.h"

namespace qwenserve {

// Two ends of a channel between nodes that are threads of this process.
class ChannelPair {
 public:
  std::shared_ptr<NodeChannel> end(int i) { return std::make_shared<End>(shared_, i); }

  // From now on nothing arrives, and nobody is told: a cable that is pulled.
  void Cut() {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->cut = true;
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<NodeMessage> to[2];
    bool closed = false;
    bool cut = false;
  };

  class End final : public NodeChannel {
   public:
    End(std::shared_ptr<Shared> shared, int index) : shared_(std::move(shared)), index_(index) {}

    absl::Status Send(const NodeMessage& message) override {
      std::lock_guard<std::mutex> lock(shared_->mutex);
      if (shared_->closed) return absl::UnavailableError("the channel is closed");
      if (!shared_->cut) shared_->to[1 - index_].push_back(message);
      shared_->changed.notify_all();
      return absl::OkStatus();
    }
    absl::StatusOr<NodeMessage> Receive() override {
      std::unique_lock<std::mutex> lock(shared_->mutex);
      auto& mine = shared_->to[index_];
      shared_->changed.wait(lock, [&] { return shared_->closed || !mine.empty(); });
      if (mine.empty()) return absl::UnavailableError("the channel is closed");
      NodeMessage message = std::move(mine.front());
      mine.pop_front();
      return message;
    }
    void Close() override {
      std::lock_guard<std::mutex> lock(shared_->mutex);
      shared_->closed = true;
      shared_->changed.notify_all();
    }

   private:
    const std::shared_ptr<Shared> shared_;
    const int index_;
  };

  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_PARALLEL_CHANNEL_PAIR_H_
