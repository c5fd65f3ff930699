#include "kernels/cuda/comm/nccl_session.h"

#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

// A call is mostly taken within microseconds; joining takes seconds.
constexpr int kEagerPolls = 200;
constexpr absl::Duration kShortPause = absl::Microseconds(20);
constexpr absl::Duration kLongPause = absl::Milliseconds(1);
constexpr int kShortPauses = 500;
// How long Abort waits for a call to come back by itself.
constexpr absl::Duration kCallPatience = absl::Seconds(1);

// Runs `work` on a thread of its own; returns when it has, or when `patience` is over: the thread
// then goes on alone.
void RunBounded(SteadyClock& clock, absl::Duration patience, std::function<void()> work) {
  auto done = std::make_shared<std::atomic<bool>>(false);
  std::thread([done, work = std::move(work)] {
    work();
    *done = true;
  }).detach();
  const absl::Duration deadline = clock.Now() + patience;
  while (!*done && clock.Now() < deadline) clock.Sleep(kLongPause);
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclSession>> NcclSession::Join(const NcclApi& api,
                                                               const NcclUniqueId& id,
                                                               const DeviceGroup& group,
                                                               SteadyClock& clock) {
  std::unique_ptr<NcclSession> session(new NcclSession(api, group, clock));
  NcclConfig config;
  config.blocking = 0;
  NcclComm comm = nullptr;
  const int result = api.CommInitRankConfig(&comm, group.size, id, group.rank, &config);
  session->comm_ = comm;
  absl::Status status = comm == nullptr && result == kNcclInProgress
                            ? session->Error("joining", result)
                            : session->Settle("joining", result, group.timeout);
  if (!status.ok()) return session->Fail(std::move(status));
  return session;
}

void NcclSession::Leave() {
  if (comm_ == nullptr) return;
  if (!First().ok()) return AbortBounded();
  const absl::Status left =
      CallWithin(kLeavePatience, "leaving", [this](NcclComm c) { return api_.CommFinalize(c); });
  const NcclComm comm = comm_.exchange(nullptr);
  if (!left.ok() || comm == nullptr) return;
  RunBounded(clock_, kLeavePatience, [api = api_, comm] { api.CommDestroy(comm); });
}

// Not through Abort: this object may be gone when the library returns.
void NcclSession::AbortBounded() {
  const NcclComm comm = comm_.exchange(nullptr);
  if (comm == nullptr) return;
  RunBounded(clock_, kLeavePatience, [api = api_, comm] { api.CommAbort(comm); });
}

absl::Status NcclSession::Fail(absl::Status reason) {
  reason = Keep(std::move(reason));
  AbortBounded();
  return reason;
}

absl::Status NcclSession::CallWithin(absl::Duration timeout, const char* what,
                                     absl::FunctionRef<int(NcclComm)> issue) {
  std::unique_lock<std::mutex> lock(calls_);
  if (absl::Status status = First(); !status.ok()) return status;
  const NcclComm comm = comm_;
  if (comm == nullptr || aborting_) {
    return Keep(absl::UnavailableError(absl::StrCat("rank ", group_.rank, " has given up")));
  }
  absl::Status status = Settle(what, issue(comm), timeout);
  return status.ok() ? status : Fail(std::move(status));
}

absl::Status NcclSession::Settle(const char* what, int result, absl::Duration timeout) {
  const absl::Duration deadline = clock_.Now() + timeout;
  for (int poll = 0; result == kNcclInProgress; ++poll) {
    if (aborting_) {
      return absl::UnavailableError(absl::StrCat("rank ", group_.rank, " has given up"));
    }
    if (poll >= kEagerPolls) {
      if (group_.health != nullptr) {
        if (absl::Status status = group_.health(); !status.ok()) return status;
      }
      if (clock_.Now() >= deadline) {
        return absl::UnavailableError(absl::StrCat("rank ", group_.rank, ": NCCL has not finished ",
                                                   what, " within ",
                                                   absl::FormatDuration(timeout)));
      }
      clock_.Sleep(poll < kEagerPolls + kShortPauses ? kShortPause : kLongPause);
    }
    const NcclComm comm = comm_;
    if (comm == nullptr) continue;  // Abort was quicker than the look at aborting_
    const int asked = api_.CommGetAsyncError(comm, &result);
    if (asked != kNcclSuccess) result = asked;
  }
  return result == kNcclSuccess ? absl::OkStatus() : Error(what, result);
}

absl::Status NcclSession::Error(const char* what, int result) {
  const char* name = api_.GetErrorString(result);
  const char* detail = api_.GetLastError(nullptr);  // of the thread, whatever the communicator
  std::string text = absl::StrCat("rank ", group_.rank, ": NCCL failed in ", what, ": ",
                                  name == nullptr ? absl::StrCat("error ", result) : name);
  if (detail != nullptr && detail[0] != '\0') absl::StrAppend(&text, " (", detail, ")");
  return absl::UnavailableError(text);
}

absl::Status NcclSession::Keep(absl::Status status) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (first_error_.ok()) first_error_ = std::move(status);
  return first_error_;
}

absl::Status NcclSession::First() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return first_error_;
}

absl::Status NcclSession::Health() {
  if (absl::Status status = First(); !status.ok()) return status;
  if (group_.health != nullptr) {
    if (absl::Status status = group_.health(); !status.ok()) return Keep(std::move(status));
  }
  // Somebody who is in a call will find the error himself.
  std::unique_lock<std::mutex> lock(calls_, std::try_to_lock);
  if (!lock.owns_lock()) return absl::OkStatus();
  const NcclComm comm = comm_;
  if (comm == nullptr || aborting_) {
    return Keep(absl::UnavailableError(absl::StrCat("rank ", group_.rank, " has given up")));
  }
  int result = kNcclSuccess;
  const int asked = api_.CommGetAsyncError(comm, &result);
  if (asked != kNcclSuccess) result = asked;
  if (result == kNcclSuccess || result == kNcclInProgress) return absl::OkStatus();
  return Keep(Error("a collective", result));
}

void NcclSession::Abort() {
  aborting_ = true;
  Keep(absl::UnavailableError(absl::StrCat("rank ", group_.rank, " has given up"))).IgnoreError();
  // A call that hangs inside NCCL is ended by the abort itself, so it is not waited for.
  std::unique_lock<std::mutex> lock(calls_, std::try_to_lock);
  const auto patient_until =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(kCallPatience);
  while (!lock.owns_lock() && std::chrono::steady_clock::now() < patient_until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    lock.try_lock();
  }
  const NcclComm comm = comm_.exchange(nullptr);
  if (comm != nullptr) api_.CommAbort(comm);
}

}  // namespace qwenserve
