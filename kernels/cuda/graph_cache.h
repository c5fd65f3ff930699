#ifndef QWENSERVE_KERNELS_CUDA_GRAPH_CACHE_H_
#define QWENSERVE_KERNELS_CUDA_GRAPH_CACHE_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

// Backend::Replay over graphs. A key's ops are issued one by one when it is first seen, which also
// lets them take what memory they need (no memory can be taken while they are recorded), are
// recorded the second time, and launched as a whole from then on. So what comes once costs no
// graph. Of the keys, the `capacity` last used are remembered.
//
// When recording fails, all ops are issued one by one from then on, and `warn` is told once. After
// a device error nothing is recorded.
class GraphCache {
 public:
  GraphCache(GpuDevice& device, size_t capacity, std::function<void(absl::string_view)> warn);

  absl::Status Run(uint64_t key, absl::FunctionRef<absl::Status()> issue);

  // Whether ops are being recorded: memory can be neither taken nor given back.
  bool recording() const { return recording_; }
  // Forgets all graphs: memory that they name is no longer theirs.
  void Clear();
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint64_t key = 0;
    std::unique_ptr<GpuGraph> graph;  // null: seen once
  };

  absl::Status Record(absl::FunctionRef<absl::Status()> issue, std::unique_ptr<GpuGraph>* graph);

  GpuDevice& device_;
  const size_t capacity_;
  const std::function<void(absl::string_view)> warn_;
  std::list<Entry> entries_;  // the last used first
  std::unordered_map<uint64_t, std::list<Entry>::iterator> by_key_;
  bool recording_ = false;
  bool disabled_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GRAPH_CACHE_H_
