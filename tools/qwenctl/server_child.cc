#include "tools/qwenctl/server_child.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace qwenserve {
namespace {

// Between fork and exec: async-signal-safe calls only.
[[noreturn]] void RunChild(char* const* argv, int stdout_fd, const cpu_set_t* cpus, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent died before prctl
  setpgid(0, 0);                        // out of reach of the terminal's Ctrl-C
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (cpus != nullptr) sched_setaffinity(0, sizeof(*cpus), cpus);
  dup2(stdout_fd, STDOUT_FILENO);
  execv(argv[0], argv);
  _exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerChild>> ServerChild::Spawn(
    const std::string& role, const std::vector<std::string>& argv, const std::vector<int>& cpus) {
  if (access(argv[0].c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(argv[0], ": ", strerror(errno)));
  }
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return absl::InternalError(strerror(errno));
  std::vector<char*> raw;
  for (const std::string& argument : argv) raw.push_back(const_cast<char*>(argument.c_str()));
  raw.push_back(nullptr);
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) CPU_SET(cpu, &set);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) RunChild(raw.data(), fds[1], cpus.empty() ? nullptr : &set, parent);
  close(fds[1]);
  if (pid < 0) {
    close(fds[0]);
    return absl::InternalError(absl::StrCat("fork: ", strerror(errno)));
  }
  return std::unique_ptr<ServerChild>(new ServerChild(role, pid, fds[0]));
}

ServerChild::ServerChild(std::string role, pid_t pid, int stdout_fd)
    : role_(std::move(role)), pid_(pid), stdout_fd_(stdout_fd), reader_([this] { ReadLines(); }) {}

ServerChild::~ServerChild() {
  if (Running()) {
    Signal(SIGKILL);
    WaitForEnd(absl::InfiniteDuration());
  }
  reader_.join();
  close(stdout_fd_);
}

void ServerChild::ReadLines() {
  FILE* file = fdopen(dup(stdout_fd_), "r");
  char* buffer = nullptr;
  size_t capacity = 0;
  while (getline(&buffer, &capacity, file) > 0) {
    const std::string line(absl::StripTrailingAsciiWhitespace(buffer));
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    absl::MutexLock lock(&mutex_);
    if (words.size() == 3 && words[0] == "listening") addresses_[words[1]] = words[2];
    if (line == "ready") ready_ = true;
  }
  free(buffer);
  fclose(file);
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

std::string ServerChild::WaitForAddress(const std::string& name, absl::Duration wait) {
  const auto known = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closed_ || addresses_.contains(name);
  };
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&known), wait);
  const auto it = addresses_.find(name);
  return it == addresses_.end() ? "" : it->second;
}

bool ServerChild::WaitUntilReady(absl::Duration wait) {
  const auto known = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return closed_ || ready_; };
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&known), wait);
  return ready_;
}

bool ServerChild::Running() { return !WaitForEnd(absl::ZeroDuration()); }

void ServerChild::Signal(int signal_number) {
  if (!ended_) kill(pid_, signal_number);
}

bool ServerChild::WaitForEnd(absl::Duration wait) {
  const absl::Time deadline = absl::Now() + wait;
  while (!ended_) {
    int status = 0;
    const pid_t pid = waitpid(pid_, &status, WNOHANG);
    if (pid == pid_) {
      ended_ = true;
      outcome_ = WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status))
                                     : absl::StrCat("exit status ", WEXITSTATUS(status));
    } else if (absl::Now() >= deadline) {
      return false;
    } else {
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  return true;
}

}  // namespace qwenserve
