#include "services/common/watched_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/net/unique_fd.h"
#include "spdlog/spdlog.h"

namespace qwenserve {

WatchedFiles::WatchedFiles(std::string name, std::vector<std::string> paths,
                           absl::Duration interval, Reload reload)
    : name_(std::move(name)),
      paths_(std::move(paths)),
      interval_(interval),
      reload_(std::move(reload)),
      seen_(Identity()) {
  thread_ = std::thread([this] { Run(); });
}

WatchedFiles::~WatchedFiles() {
  stop_.Stop();
  thread_.join();
}

std::string WatchedFiles::Identity() const {
  std::string identity;
  for (const std::string& path : paths_) {
    struct stat file {};
    if (stat(path.c_str(), &file) != 0) {
      absl::StrAppend(&identity, "missing;");
      continue;
    }
    absl::StrAppend(&identity, file.st_dev, ",", file.st_ino, ",", file.st_size, ",",
                    file.st_mtim.tv_sec, ",", file.st_mtim.tv_nsec, ",", file.st_ctim.tv_sec, ",",
                    file.st_ctim.tv_nsec, ";");
  }
  return identity;
}

void WatchedFiles::Run() {
  std::string error;
  while (!stop_.StoppedWithin(interval_)) {
    // Before the files are read: what changes meanwhile is seen the next time.
    std::string identity = Identity();
    if (identity == seen_ && error.empty()) continue;
    seen_ = std::move(identity);
    const absl::Status status = reload_();
    const std::string message(status.message());
    if (status.ok()) {
      spdlog::info("{} reloaded", name_);
    } else if (message != error) {
      spdlog::error("{} not reloaded, the last good ones stay: {}", name_, message);
    }
    error = status.ok() ? "" : message.empty() ? "unknown" : message;
  }
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  // Non-blocking, so that a pipe cannot hold us.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.ok()) {
    const std::string text = absl::StrCat(path, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(text) : absl::UnavailableError(text);
  }
  struct stat file {};
  if (fstat(fd.get(), &file) != 0 || !S_ISREG(file.st_mode)) {
    return absl::UnavailableError(absl::StrCat(path, ": is not a regular file"));
  }
  std::string text(max_bytes + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = read(fd.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  if (size > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": is larger than ", max_bytes, " bytes"));
  }
  text.resize(size);
  return text;
}

}  // namespace qwenserve
