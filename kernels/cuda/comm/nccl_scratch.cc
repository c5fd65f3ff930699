#include "kernels/cuda/comm/nccl_scratch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kPause = absl::Microseconds(100);

}  // namespace

absl::Status WaitForDevice(GpuDevice& device, NcclSession& session) {
  SteadyClock& clock = session.clock();
  const absl::Duration deadline = clock.Now() + session.group().timeout;
  const GpuEvent event = device.Record(GpuStream::kCompute);
  absl::Status status;
  while (status.ok() && !device.Done(event)) {
    if (clock.Now() >= deadline) {
      status = absl::UnavailableError(absl::StrCat("rank ", session.group().rank,
                                                   ": the first collectives took longer than ",
                                                   absl::FormatDuration(session.group().timeout)));
      break;
    }
    clock.Sleep(kPause);
    status = session.Health();
    if (status.ok()) status = device.Check();
  }
  device.Release(event);
  if (status.ok()) status = device.Check();
  return status.ok() ? status : session.Fail(std::move(status));
}

absl::StatusOr<std::unique_ptr<NcclScratch>> NcclScratch::Take(GpuDevice& device,
                                                               NcclSession& session,
                                                               int64_t floats) {
  std::unique_ptr<NcclScratch> scratch(new NcclScratch(session, floats));
  if (session.api().has_windows()) {
    if (absl::Status status = scratch->TakeWindow(device); !status.ok()) return status;
  }
  if (scratch->symmetric()) return scratch;
  absl::StatusOr<Buffer> plain =
      AllocateGpuBuffer(device, static_cast<size_t>(floats) * sizeof(float));
  if (!plain.ok()) return plain.status();
  scratch->plain_ = *std::move(plain);
  return scratch;
}

// One rank without is enough to have none: a window is made by all ranks together, so they tell
// each other first how they fared.
absl::Status NcclScratch::TakeWindow(GpuDevice& device) {
  const NcclApi& api = session_.api();
  const DeviceGroup& group = session_.group();
  const size_t bytes = static_cast<size_t>(floats_) * sizeof(float);
  if (api.MemAlloc(&shared_, bytes) != kNcclSuccess) shared_ = nullptr;

  std::vector<float> able(group.size + 1, 0);
  const float mine = shared_ == nullptr ? 0 : 1;
  absl::StatusOr<Buffer> flags = AllocateGpuBuffer(device, able.size() * sizeof(float));
  if (!flags.ok()) return flags.status();
  float* all = flags->as<float>();
  float* own = all + group.size;
  device.CopyToDevice(own, &mine, sizeof(mine), GpuStream::kCompute);
  absl::Status status = session_.Call("a gather", [&](NcclComm comm) {
    return api.AllGather(own, all, 1, kNcclFloat32, comm,
                         device.native_stream(GpuStream::kCompute));
  });
  if (!status.ok()) return status;
  device.CopyToHost(able.data(), all, group.size * sizeof(float), GpuStream::kCompute);
  if (status = WaitForDevice(device, session_); !status.ok()) return status;
  const bool everybody = std::all_of(able.begin(), able.end() - 1, [](float f) { return f == 1; });
  if (everybody) {
    status = session_.Call("making a window", [&](NcclComm comm) {
      return api.CommWindowRegister(comm, shared_, bytes, &window_, kNcclWindowSymmetric);
    });
    if (!status.ok()) return status;
  }
  // Null also when NCCL takes the call but finds that the GPUs can't do it: in all ranks alike.
  if (window_ == nullptr && shared_ != nullptr) {
    api.MemFree(shared_);
    shared_ = nullptr;
  }
  return absl::OkStatus();
}

void NcclScratch::CloseWindow() {
  if (window_ == nullptr) return;
  const absl::Status closed = session_.CallWithin(
      NcclSession::kLeavePatience, "closing a window",
      [&](NcclComm comm) { return session_.api().CommWindowDeregister(comm, window_); });
  if (closed.ok()) window_ = nullptr;
}

NcclScratch::~NcclScratch() {
  if (shared_ != nullptr && window_ == nullptr) session_.api().MemFree(shared_);
}

float* NcclScratch::data() const {
  return shared_ != nullptr ? static_cast<float*>(shared_) : plain_.as<float>();
}

}  // namespace qwenserve
