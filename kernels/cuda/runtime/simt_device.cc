#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <new>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/cuda/runtime/simt_faults.h"
#include "kernels/cuda/simt/grid.h"
#include "kernels/steady_clock.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#endif

namespace qwenserve {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kGuardBytes = 256;
constexpr char kGuardByte = 0x5c;
constexpr std::array<char, kGuardBytes> kIntact = [] {
  std::array<char, kGuardBytes> guard = {};
  guard.fill(kGuardByte);
  return guard;
}();

// Allocations with a guard zone on both sides. Not zeroed, as the machine's: full of garbage.
class GuardedHeap {
 public:
  ~GuardedHeap() {
    while (!sizes_.empty()) Release(const_cast<char*>(sizes_.begin()->first));
  }

  absl::StatusOr<void*> Allocate(size_t bytes, size_t total, absl::string_view what) {
    if (bytes > total || used_ > total - bytes) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes of ",
                                                       what, ": ", total - std::min(used_, total),
                                                       " of ", total, " are free"));
    }
    auto* memory = static_cast<char*>(
        ::operator new (bytes + 2 * kGuardBytes, std::align_val_t{kAlignment}, std::nothrow));
    if (memory == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the host cannot allocate ", bytes, " bytes for ", what));
    }
    std::memset(memory, kGuardByte, kGuardBytes);
    char* start = memory + kGuardBytes;
    simt::FillWithGarbage(start, bytes);
    std::memset(start + bytes, kGuardByte, kGuardBytes);
    ASAN_POISON_MEMORY_REGION(memory, kGuardBytes);
    ASAN_POISON_MEMORY_REGION(start + bytes, kGuardBytes);
    sizes_[start] = bytes;
    used_ += bytes;
    return start;
  }

  void Release(void* memory) {
    const auto found = sizes_.find(static_cast<char*>(memory));
    QS_CHECK(found != sizes_.end());
    char* start = static_cast<char*>(memory);
    ASAN_UNPOISON_MEMORY_REGION(start - kGuardBytes, found->second + 2 * kGuardBytes);
    CheckGuards(start, found->second, "something");
    used_ -= found->second;
    sizes_.erase(found);
    ::operator delete (start - kGuardBytes, std::align_val_t{kAlignment});
  }

  // Ends the program if `who` wrote outside the allocations. The address sanitizer does so itself.
  void CheckAll(const std::string& who) const {
#ifndef __SANITIZE_ADDRESS__
    for (const auto& [start, bytes] : sizes_) CheckGuards(start, bytes, who.c_str());
#endif
  }

  // Is [at, at + bytes) inside one allocation?
  bool Contains(const void* at, size_t bytes) const {
    auto after = sizes_.upper_bound(static_cast<const char*>(at));
    if (after == sizes_.begin()) return false;
    const auto& [start, size] = *std::prev(after);
    const size_t offset = static_cast<size_t>(static_cast<const char*>(at) - start);
    return offset <= size && bytes <= size - offset;
  }

  size_t used() const { return used_; }

 private:
  static void CheckGuards(const char* start, size_t bytes, const char* who) {
    const char* side = nullptr;
    if (std::memcmp(start - kGuardBytes, kIntact.data(), kGuardBytes) != 0) side = "before";
    if (std::memcmp(start + bytes, kIntact.data(), kGuardBytes) != 0) side = "beyond";
    if (side == nullptr) return;
    std::fprintf(stderr, "simt: %s wrote %s an allocation of %zu bytes\n", who, side, bytes);
    std::abort();
  }

  std::map<const char*, size_t> sizes_;
  size_t used_ = 0;
};

class SimtGraph final : public GpuGraph {
 public:
  std::vector<std::function<void()>> nodes;
};

}  // namespace

class SimtDevice final : public GpuDevice {
 public:
  SimtDevice(uint64_t seed, std::shared_ptr<SimtFaults> faults)
      : seed_(seed), faults_(std::move(faults)) {
    properties_.name = "SIMT emulation";
    properties_.sm = 90;
    properties_.num_sms = 4;
    properties_.shared_bytes = simt::kMaxSharedBytes;
    properties_.l2_bytes = size_t{1} << 20;
    properties_.total_memory = memory().total;
  }

  const GpuProperties& properties() const override { return properties_; }
  GpuMemory memory() const override {
    const std::lock_guard lock(faults_->mutex_);
    const size_t total = faults_->total_memory_;
    return {total - std::min(total, device_.used()), total};
  }
  void* native_stream(GpuStream) const override { return nullptr; }

  absl::StatusOr<void*> Allocate(size_t bytes) override {
    QS_CHECK(capture_ == nullptr);
    return device_.Allocate(bytes, memory().total, "device memory");
  }
  void Free(void* memory) override {
    QS_CHECK(capture_ == nullptr);
    if (memory != nullptr) device_.Release(memory);
  }
  absl::StatusOr<void*> AllocatePinned(size_t bytes) override {
    QS_CHECK(capture_ == nullptr);
    size_t total;
    {
      const std::lock_guard lock(faults_->mutex_);
      total = faults_->total_pinned_;
    }
    return pinned_.Allocate(bytes, total, "pinned host memory");
  }
  void FreePinned(void* memory) override {
    QS_CHECK(capture_ == nullptr);
    if (memory != nullptr) pinned_.Release(memory);
  }

  void CopyToDevice(void* device, const void* host, size_t bytes, GpuStream stream) override {
    if (bytes == 0) return;
    CheckDevice(device, bytes);
    CheckCapturedHost(host, bytes, stream);
    Issue(stream, [=] { std::memcpy(device, host, bytes); });
  }
  void CopyToHost(void* host, const void* device, size_t bytes, GpuStream stream) override {
    if (bytes == 0) return;
    CheckDevice(device, bytes);
    CheckCapturedHost(host, bytes, stream);
    Issue(stream, [=] { std::memcpy(host, device, bytes); });
  }
  void CopyOnDevice(void* to, const void* from, size_t bytes, GpuStream stream) override {
    if (bytes == 0) return;
    CheckDevice(to, bytes);
    CheckDevice(from, bytes);
    Issue(stream, [=] { std::memcpy(to, from, bytes); });
  }
  void Fill(void* device, int byte, size_t bytes, GpuStream stream) override {
    if (bytes == 0) return;
    CheckDevice(device, bytes);
    Issue(stream, [=] { std::memset(device, byte, bytes); });
  }

  void LaunchRaw(const GpuKernel& kernel, const LaunchShape& shape, const void* args,
                 GpuStream stream) override {
    QS_CHECK(kernel.function != nullptr && shape.shared_bytes <= properties_.shared_bytes);
    const auto* bytes = static_cast<const char*>(args);
    Issue(stream,
          [this, kernel, shape, copy = std::vector<char>(bytes, bytes + kernel.args_bytes)] {
            RunKernel(kernel, shape, copy.data());
          });
  }

  GpuEvent Record(GpuStream stream) override {
    QS_CHECK(capture_ == nullptr || stream != GpuStream::kCompute);
    ++live_events_;
    QS_CHECK(live_events_ < 10000);  // somebody forgets to release them
    return ++last_event_;
  }
  bool Done(GpuEvent event) override {
    QS_CHECK(event != 0);
    const std::lock_guard lock(faults_->mutex_);
    return !faults_->hanging_;
  }
  void Release(GpuEvent event) override {
    QS_CHECK(event != 0 && live_events_ > 0);
    --live_events_;
  }
  void After(GpuStream stream, GpuEvent event) override {
    QS_CHECK(event != 0 && (capture_ == nullptr || stream != GpuStream::kCompute));
  }
  absl::Status Wait(GpuEvent event, absl::Duration timeout) override {
    QS_CHECK(event != 0);
    return WaitUntilDone(timeout);
  }
  absl::Status Synchronize(absl::Duration timeout) override {
    QS_CHECK(capture_ == nullptr);
    return WaitUntilDone(timeout);
  }
  absl::Status Check() const override {
    const std::lock_guard lock(faults_->mutex_);
    return faults_->launches_left_ == 0 ? faults_->error_ : absl::OkStatus();
  }

  void BeginCapture() override {
    QS_CHECK(capture_ == nullptr);
    capture_ = std::make_unique<SimtGraph>();
  }
  absl::StatusOr<std::unique_ptr<GpuGraph>> EndCapture() override {
    QS_CHECK(capture_ != nullptr);
    std::unique_ptr<GpuGraph> graph = std::move(capture_);
    if (absl::Status status = Check(); !status.ok()) return status;
    const std::lock_guard lock(faults_->mutex_);
    if (faults_->captures_fail_) return absl::InternalError("the capture failed");
    return graph;
  }
  void LaunchGraph(const GpuGraph& graph) override {
    QS_CHECK(capture_ == nullptr);
    {
      const std::lock_guard lock(faults_->mutex_);
      ++faults_->graph_launches_;
    }
    for (const auto& node : static_cast<const SimtGraph&>(graph).nodes) {
      Issue(GpuStream::kCompute, node);
    }
  }

 private:
  void Issue(GpuStream stream, std::function<void()> work) {
    if (capture_ != nullptr && stream == GpuStream::kCompute) {
      capture_->nodes.push_back(std::move(work));
    } else if (Check().ok()) {
      work();
    }
  }

  void RunKernel(const GpuKernel& kernel, const LaunchShape& shape, const void* args) {
    int64_t number;
    {
      const std::lock_guard lock(faults_->mutex_);
      number = faults_->launches_++;
    }
    simt::RunGrid(kernel, shape, args, seed_ * 1000003 + static_cast<uint64_t>(number));
    device_.CheckAll(absl::StrCat("kernel ", kernel.name));
    pinned_.CheckAll(absl::StrCat("kernel ", kernel.name));
    const std::lock_guard lock(faults_->mutex_);
    if (faults_->launches_left_ > 0) --faults_->launches_left_;
  }

  void CheckDevice(const void* at, size_t bytes) const { QS_CHECK(device_.Contains(at, bytes)); }

  // A graph copies whenever it is launched, so its host side must stay where it is.
  void CheckCapturedHost(const void* host, size_t bytes, GpuStream stream) const {
    QS_CHECK(capture_ == nullptr || stream != GpuStream::kCompute || pinned_.Contains(host, bytes));
  }

  absl::Status WaitUntilDone(absl::Duration timeout) {
    const absl::Duration deadline = SteadyClock::Real().Now() + timeout;
    for (;;) {
      if (absl::Status status = Check(); !status.ok()) return status;
      {
        const std::lock_guard lock(faults_->mutex_);
        if (!faults_->hanging_) return absl::OkStatus();
      }
      if (SteadyClock::Real().Now() >= deadline) {
        return absl::DeadlineExceededError(
            absl::StrCat("the GPU's work was not done within ", absl::FormatDuration(timeout)));
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  const uint64_t seed_;
  const std::shared_ptr<SimtFaults> faults_;
  GpuProperties properties_;
  GuardedHeap device_;
  GuardedHeap pinned_;
  std::unique_ptr<SimtGraph> capture_;  // null: not capturing
  GpuEvent last_event_ = 0;
  int64_t live_events_ = 0;
};

void SimtFaults::SetTotalMemory(size_t bytes) {
  const std::lock_guard lock(mutex_);
  total_memory_ = bytes;
}
void SimtFaults::SetTotalPinned(size_t bytes) {
  const std::lock_guard lock(mutex_);
  total_pinned_ = bytes;
}
void SimtFaults::FailAfter(int64_t launches, absl::Status error) {
  QS_CHECK(launches >= 0 && !error.ok());
  const std::lock_guard lock(mutex_);
  launches_left_ = launches;
  error_ = std::move(error);
}
void SimtFaults::FailCaptures() {
  const std::lock_guard lock(mutex_);
  captures_fail_ = true;
}
void SimtFaults::Hang() {
  const std::lock_guard lock(mutex_);
  hanging_ = true;
}
void SimtFaults::Resume() {
  const std::lock_guard lock(mutex_);
  hanging_ = false;
}
int64_t SimtFaults::launches() const {
  const std::lock_guard lock(mutex_);
  return launches_;
}
int64_t SimtFaults::graph_launches() const {
  const std::lock_guard lock(mutex_);
  return graph_launches_;
}

std::unique_ptr<GpuDevice> MakeSimtDevice(uint64_t seed, std::shared_ptr<SimtFaults> faults) {
  if (faults == nullptr) faults = std::make_shared<SimtFaults>();
  return std::make_unique<SimtDevice>(seed, std::move(faults));
}

std::unique_ptr<GpuDevice> MakeSimtDevice(uint64_t seed) { return MakeSimtDevice(seed, nullptr); }

}  // namespace qwenserve
