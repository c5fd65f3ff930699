#ifndef QWENSERVE_ENGINE_RUNTIME_FOLLOWER_SET_H_
#define QWENSERVE_ENGINE_RUNTIME_FOLLOWER_SET_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/loader/checkpoint.h"
#include "engine/parallel/rank_group.h"
#include "engine/runtime/child_process.h"
#include "engine/runtime/engine_options.h"
#include "engine/runtime/rank_settings.h"

namespace qwenserve {

// Ranks of this node that follow plans, as threads or as processes. One thread.
class FollowerSet {
 public:
  explicit FollowerSet(std::shared_ptr<RankGroup> group) : group_(std::move(group)) {}
  // The group has ended by then, or the ranks have been told to end.
  ~FollowerSet() { Join(absl::ZeroDuration()); }

  // `on_failure` is called, from any thread, when one has failed; the group's Health then says why.
  // `checkpoint` must outlive the set. Errors are those of ChildProcess.
  absl::Status Start(absl::Span<const RankSettings> ranks, RankMode mode,
                     const std::string& rank_binary, const Checkpoint& checkpoint,
                     const std::function<void()>& on_failure);

  // Waits for all of them; processes that have not ended by then are killed.
  void Join(absl::Duration grace_of_processes);

  std::vector<pid_t> process_ids() const;

 private:
  const std::shared_ptr<RankGroup> group_;
  std::vector<std::thread> threads_;
  std::vector<std::unique_ptr<ChildProcess>> processes_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_FOLLOWER_SET_H_
