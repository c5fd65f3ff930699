#include "engine/runtime/machine_limits.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace qwenserve {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

std::optional<std::string> ReadSmallFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// "max" and what is not a number give nothing.
std::optional<int64_t> ReadNumber(const std::string& path) {
  const std::optional<std::string> text = ReadSmallFile(path);
  int64_t value = 0;
  if (!text || !absl::SimpleAtoi(*text, &value)) return std::nullopt;
  return value;
}

// The number after `key` in a file of lines "key number".
std::optional<int64_t> ReadField(const std::string& path, absl::string_view key) {
  const std::optional<std::string> text = ReadSmallFile(path);
  if (!text) return std::nullopt;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() >= 2 && words[0] == key && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return std::nullopt;
}

// The folders of this process's control group, its own first, then its parents up to the mount. A
// container that sees its group as the root finds a path which does not exist; the mount is right.
std::vector<std::string> GroupFolders(const std::string& mount, std::string group) {
  std::vector<std::string> folders;
  while (!group.empty() && group != "/") {
    folders.push_back(mount + group);
    group.resize(group.find_last_of('/') == std::string::npos ? 0 : group.find_last_of('/'));
  }
  folders.push_back(mount);
  return folders;
}

// `controller` "" is v2, whose line in /proc/self/cgroup is "0::/path".
std::optional<std::string> OwnGroup(const std::string& root, absl::string_view controller) {
  const std::optional<std::string> text = ReadSmallFile(root + "/proc/self/cgroup");
  if (!text) return std::nullopt;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<absl::string_view> names = absl::StrSplit(parts[1], ',');
    const bool found = controller.empty()
                           ? parts[0] == "0" && parts[1].empty()
                           : std::find(names.begin(), names.end(), controller) != names.end();
    if (found) return std::string(parts[2]);
  }
  return std::nullopt;
}

std::vector<std::string> FoldersOf(const std::string& root, absl::string_view controller) {
  const std::string mount = controller.empty() ? absl::StrCat(root, "/sys/fs/cgroup")
                                               : absl::StrCat(root, "/sys/fs/cgroup/", controller);
  return GroupFolders(mount, OwnGroup(root, controller).value_or(""));
}

double CpuQuota(const std::string& root) {
  double quota = std::numeric_limits<double>::infinity();
  for (const std::string& folder : FoldersOf(root, "")) {
    const std::vector<std::string> words = absl::StrSplit(
        ReadSmallFile(folder + "/cpu.max").value_or(""), absl::ByAnyChar(" \n"), absl::SkipEmpty());
    double time = 0, period = 0;
    if (words.size() == 2 && absl::SimpleAtod(words[0], &time) &&
        absl::SimpleAtod(words[1], &period) && time > 0 && period > 0) {
      quota = std::min(quota, time / period);
    }
  }
  for (const std::string& folder : FoldersOf(root, "cpu")) {
    const int64_t time = ReadNumber(folder + "/cpu.cfs_quota_us").value_or(-1);
    const int64_t period = ReadNumber(folder + "/cpu.cfs_period_us").value_or(0);
    if (time > 0 && period > 0) {
      quota = std::min(quota, static_cast<double>(time) / static_cast<double>(period));
    }
  }
  return std::isinf(quota) ? 0 : quota;
}

struct MemoryFiles {
  const char* controller;
  const char* limit;
  const char* usage;
  const char* reclaimable;  // page cache that goes first
};
constexpr MemoryFiles kMemoryFiles[] = {
    {"", "/memory.max", "/memory.current", "inactive_file"},
    {"memory", "/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file"},
};

}  // namespace

int CpuLimits::usable() const {
  int cores = std::max(1, static_cast<int>(allowed.size()));
  if (quota > 0 && quota < cores) cores = std::max(1, static_cast<int>(quota));
  return cores;
}

CpuLimits ReadCpuLimits(const std::string& root) {
  CpuLimits limits;
  limits.machine = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) limits.allowed.push_back(cpu);
    }
  } else {  // more cores than the set can name
    for (int cpu = 0; cpu < limits.machine; ++cpu) limits.allowed.push_back(cpu);
  }
  limits.quota = CpuQuota(root);
  return limits;
}

MemoryLimits ReadMemoryLimits(const std::string& root) {
  MemoryLimits limits;
  const std::optional<int64_t> kib = ReadField(root + "/proc/meminfo", "MemAvailable:");
  limits.available = kib.has_value() ? *kib * 1024 : kNoLimit;
  limits.reason = "MemAvailable";
  for (const MemoryFiles& files : kMemoryFiles) {
    for (const std::string& folder : FoldersOf(root, files.controller)) {
      const int64_t limit = ReadNumber(folder + files.limit).value_or(kNoLimit);
      const int64_t usage = ReadNumber(folder + files.usage).value_or(0);
      const int64_t cache = ReadField(folder + "/memory.stat", files.reclaimable).value_or(0);
      // v1 writes a number near 2^63 for "no limit".
      if (limit > (int64_t{1} << 60)) continue;
      const int64_t left = std::max<int64_t>(0, limit - std::max<int64_t>(0, usage - cache));
      if (left < limits.available) {
        limits.available = left;
        limits.reason = absl::StrCat("cgroup limit of ", limit, " bytes");
      }
    }
  }
  if (limits.available == kNoLimit) limits = {0, "nothing says how much is free"};
  return limits;
}

}  // namespace qwenserve
