#ifndef QWENSERVE_TOOLS_QWENCTL_SERVER_CHILD_H_
#define QWENSERVE_TOOLS_QWENCTL_SERVER_CHILD_H_

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace qwenserve {

// One of our servers as a child. Its stderr is ours; its stdout is read for the lines
// `listening NAME ADDRESS` and `ready`. It dies with this process, even on kill -9, and a
// terminal's Ctrl-C does not reach it. Use from the thread that spawned it, which must outlive it.
class ServerChild {
 public:
  // `argv[0]` is the program's path. `cpus`: the processors it may use; empty = as this process.
  static absl::StatusOr<std::unique_ptr<ServerChild>> Spawn(const std::string& role,
                                                            const std::vector<std::string>& argv,
                                                            const std::vector<int>& cpus);
  // Kills it if it still runs.
  ~ServerChild();

  const std::string& role() const { return role_; }
  pid_t pid() const { return pid_; }

  // The address of a `listening` line, or "" after `wait` or when the child has ended.
  std::string WaitForAddress(const std::string& name, absl::Duration wait);
  bool WaitUntilReady(absl::Duration wait);

  // False once it has ended; then Outcome() says how ("exit status 1", "signal 9").
  bool Running();
  const std::string& Outcome() const { return outcome_; }

  void Signal(int signal_number);
  // Waits for its end; true when it has ended.
  bool WaitForEnd(absl::Duration wait);

 private:
  ServerChild(std::string role, pid_t pid, int stdout_fd);
  void ReadLines();

  const std::string role_;
  const pid_t pid_;
  const int stdout_fd_;
  std::string outcome_;
  bool ended_ = false;

  absl::Mutex mutex_;
  std::map<std::string, std::string> addresses_ ABSL_GUARDED_BY(mutex_);
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;  // its stdout
  std::thread reader_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_SERVER_CHILD_H_
