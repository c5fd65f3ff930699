#include "kernels/cuda/graph_cache.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {

GraphCache::GraphCache(GpuDevice& device, size_t capacity,
                       std::function<void(absl::string_view)> warn)
    : device_(device), capacity_(capacity), warn_(std::move(warn)) {
  QS_CHECK(capacity > 0);
}

void GraphCache::Clear() {
  QS_CHECK(!recording_);
  by_key_.clear();
  entries_.clear();
}

absl::Status GraphCache::Record(absl::FunctionRef<absl::Status()> issue,
                                std::unique_ptr<GpuGraph>* graph) {
  device_.BeginCapture();
  recording_ = true;
  const absl::Status issued = issue();
  recording_ = false;
  absl::StatusOr<std::unique_ptr<GpuGraph>> made = device_.EndCapture();
  if (!issued.ok()) return issued;
  if (made.ok()) {
    *graph = *std::move(made);
    return absl::OkStatus();
  }
  // What could not be recorded was not run either.
  disabled_ = true;
  Clear();
  if (!device_.Check().ok()) return absl::OkStatus();
  if (warn_) {
    warn_(absl::StrCat("steps are issued op by op, since they cannot be recorded: ",
                       made.status().message()));
  }
  return issue();
}

absl::Status GraphCache::Run(uint64_t key, absl::FunctionRef<absl::Status()> issue) {
  QS_CHECK(!recording_);
  if (disabled_ || !device_.Check().ok()) return issue();
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) {
    if (entries_.size() == capacity_) {
      by_key_.erase(entries_.back().key);
      entries_.pop_back();
    }
    entries_.push_front({key, nullptr});
    by_key_[key] = entries_.begin();
    return issue();
  }
  entries_.splice(entries_.begin(), entries_, found->second);
  if (entries_.front().graph == nullptr) {
    std::unique_ptr<GpuGraph> graph;
    const absl::Status status = Record(issue, &graph);
    if (graph == nullptr) return status;
    entries_.front().graph = std::move(graph);
  }
  device_.LaunchGraph(*entries_.front().graph);
  return absl::OkStatus();
}

}  // namespace qwenserve
