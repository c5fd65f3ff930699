#ifndef QWENSERVE_SERVICES_COMMON_WATCHED_FILES_H_
#define QWENSERVE_SERVICES_COMMON_WATCHED_FILES_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/base/monotonic_time.h"

namespace qwenserve {

// Files that are replaced while the process runs, such as keys and certificates. They are looked at
// by name again and again, so a rename over them counts, as does a symbolic link on the way that is
// swapped, which is how Kubernetes replaces what it mounts.
class WatchedFiles {
 public:
  // Reads the files. Called on the watcher's thread.
  using Reload = std::function<absl::Status()>;

  // Calls `reload` when one of `paths` is not the file, or not as old or long, as the last time; as
  // long as it fails, at each interval again. `name`: for the log, which tells of each new failure
  // once. What counts from the start is the files as they are now, so construct it before they are
  // read for the first time.
  WatchedFiles(std::string name, std::vector<std::string> paths, absl::Duration interval,
               Reload reload);
  // No call of `reload` follows.
  ~WatchedFiles();

 private:
  void Run();
  std::string Identity() const;

  const std::string name_;
  const std::vector<std::string> paths_;
  const absl::Duration interval_;
  const Reload reload_;
  StopSignal stop_;
  std::string seen_;  // constructor, then the thread only
  std::thread thread_;
};

// The whole of a regular file. NOT_FOUND, UNAVAILABLE, or RESOURCE_EXHAUSTED above `max_bytes`; the
// message names the path and nothing of the content.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_WATCHED_FILES_H_
