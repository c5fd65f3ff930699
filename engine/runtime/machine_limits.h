#ifndef QWENSERVE_ENGINE_RUNTIME_MACHINE_LIMITS_H_
#define QWENSERVE_ENGINE_RUNTIME_MACHINE_LIMITS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace qwenserve {

// What this process may use of the machine. In a container that is less than what the machine has,
// and a program that goes by the machine is throttled or killed.

struct CpuLimits {
  std::vector<int> allowed;  // cores by affinity (taskset, cpuset)
  int machine = 0;           // cores that are online
  double quota = 0;          // cores by cgroup quota; 0 = none

  // Threads that can run at once: the smaller of affinity and quota, at least 1. Part of a core is
  // not counted: a thread more than the quota gets all of them throttled.
  int usable() const;
  // Somebody chose these cores for this process, so that its threads may be pinned to them.
  bool is_share() const { return static_cast<int>(allowed.size()) < machine; }
};

struct MemoryLimits {
  int64_t available = 0;  // bytes that can still be taken
  std::string reason;     // which limit decided, for the log
};

// `root`: where /proc and /sys are looked for; tests have their own. cgroup v2 and v1, every level
// from the process's own group up; the smallest limit counts. What can't be read is no limit.
CpuLimits ReadCpuLimits(const std::string& root = "");
MemoryLimits ReadMemoryLimits(const std::string& root = "");

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_MACHINE_LIMITS_H_
