#include "engine/runtime/child_process.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// 0 or an errno.
int Spawn(const std::vector<std::string>& argv, int inherited_fd, pid_t* pid) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  QS_CHECK(posix_spawn_file_actions_init(&actions) == 0);
  QS_CHECK(posix_spawnattr_init(&attributes) == 0);
  // A dup2 onto itself still clears close-on-exec.
  QS_CHECK(posix_spawn_file_actions_adddup2(&actions, inherited_fd, ChildProcess::kInheritedFd) ==
           0);
  QS_CHECK(posix_spawn_file_actions_addclosefrom_np(&actions, ChildProcess::kInheritedFd + 1) == 0);
  sigset_t none;
  sigemptyset(&none);
  QS_CHECK(posix_spawnattr_setsigmask(&attributes, &none) == 0);
  QS_CHECK(posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK) == 0);

  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const int error =
      posix_spawn(pid, arguments[0], &actions, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

std::string DescribeEnd(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return absl::StrCat("exit status ", info.si_status);
  return absl::StrCat("signal ", info.si_status);
}

}  // namespace

void ChildProcess::SpawnAndWatch(std::vector<std::string> argv, int inherited_fd,
                                 const std::function<void(const std::string&)>& on_exit) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    spawn_error_ = Spawn(argv, inherited_fd, &pid_);
    spawned_ = true;
    ended_ = spawn_error_ != 0;
    changed_.notify_all();
    if (ended_) return;
  }
  siginfo_t info = {};
  // Leaves the child a zombie: its number can't be given to another process before ended_ is set.
  while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0) {
    QS_CHECK(errno == EINTR);
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    ended_ = true;
    changed_.notify_all();
  }
  on_exit(DescribeEnd(info));
}

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    std::vector<std::string> argv, int inherited_fd,
    std::function<void(const std::string& how)> on_exit) {
  QS_CHECK(!argv.empty());
  const std::string program = argv[0];
  std::unique_ptr<ChildProcess> child(new ChildProcess());
  child->thread_ = std::thread(
      [self = child.get(), argv = std::move(argv), inherited_fd, on_exit = std::move(on_exit)] {
        self->SpawnAndWatch(argv, inherited_fd, on_exit);
      });
  int error = 0;
  {
    std::unique_lock<std::mutex> lock(child->mutex_);
    child->changed_.wait(lock, [&] { return child->spawned_; });
    error = child->spawn_error_;
  }
  if (error != 0) {
    const std::string message =
        absl::StrCat("cannot start \"", program, "\": ", std::strerror(error));
    return error == ENOENT ? absl::NotFoundError(message) : absl::UnavailableError(message);
  }
  return child;
}

ChildProcess::~ChildProcess() {
  Signal(SIGKILL);
  thread_.join();
}

void ChildProcess::Signal(int signal) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!ended_) kill(pid_, signal);
}

bool ChildProcess::WaitFor(absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [this] { return ended_; });
}

}  // namespace qwenserve
