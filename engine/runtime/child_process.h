#ifndef QWENSERVE_ENGINE_RUNTIME_CHILD_PROCESS_H_
#define QWENSERVE_ENGINE_RUNTIME_CHILD_PROCESS_H_

#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace qwenserve {

// A process that must not outlive this one, and the thread that started it and waits for its end.
// The thread lives as long as the child, because the child's parent-death signal follows the thread
// that made it, not the process.
class ChildProcess {
 public:
  // Descriptor number under which the child finds `inherited_fd`; it gets no other above 2.
  static constexpr int kInheritedFd = 3;

  // Starts argv[0] (a path). `on_exit` is called once, from the watching thread, when the child has
  // ended, with words such as "exit status 1" or "signal 9". NOT_FOUND or UNAVAILABLE when it can't
  // be started.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(
      std::vector<std::string> argv, int inherited_fd,
      std::function<void(const std::string& how)> on_exit);

  // Kills the child if it still runs.
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  void Signal(int signal);
  // False when it has not ended by then.
  bool WaitFor(absl::Duration timeout);

 private:
  ChildProcess() = default;
  void SpawnAndWatch(std::vector<std::string> argv, int inherited_fd,
                     const std::function<void(const std::string&)>& on_exit);

  std::thread thread_;
  pid_t pid_ = -1;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool spawned_ = false;
  int spawn_error_ = 0;
  bool ended_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_CHILD_PROCESS_H_
