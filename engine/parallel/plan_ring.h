#ifndef QWENSERVE_ENGINE_PARALLEL_PLAN_RING_H_
#define QWENSERVE_ENGINE_PARALLEL_PLAN_RING_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/parallel/rank_group.h"

namespace qwenserve {

// Carries messages (serialised StepPlans) from rank 0 to all other ranks, through a ring of bytes
// in the group's memory: the same for threads and for processes. A message may be longer than the
// ring. In a frame: length (4 bytes, host order), then the bytes.

// Rank 0's end, or that of who acts for it on another node. One thread.
class PlanSender {
 public:
  // `readers`: the ranks that have a PlanReceiver. `timeout`: how long one of them may leave the
  // ring full.
  PlanSender(std::shared_ptr<RankGroup> group, std::vector<int> readers, absl::Duration timeout);
  // All ranks but 0.
  PlanSender(std::shared_ptr<RankGroup> group, absl::Duration timeout);

  // Returns when the message is in the ring. UNAVAILABLE when the group is dead.
  absl::Status Send(absl::string_view message);

 private:
  absl::Status Write(const char* data, size_t bytes);

  std::shared_ptr<RankGroup> group_;
  std::vector<int> readers_;
  absl::Duration timeout_;
  uint32_t written_ = 0;  // bytes; wraps around, as all counters of the ring do
};

// A follower's end. One thread.
class PlanReceiver {
 public:
  PlanReceiver(std::shared_ptr<RankGroup> group, int rank);

  // Whether Receive will have something to say within that time: a message, or the group's end.
  bool Arrives(absl::Duration timeout);
  // Waits for the next message as long as the group lives: an idle engine sends none.
  absl::StatusOr<std::string> Receive();

 private:
  absl::Status Read(char* data, size_t bytes);

  std::shared_ptr<RankGroup> group_;
  int rank_;
  uint32_t read_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_PARALLEL_PLAN_RING_H_
