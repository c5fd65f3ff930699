#ifndef QWENSERVE_KERNELS_CUDA_COMM_NCCL_SESSION_H_
#define QWENSERVE_KERNELS_CUDA_COMM_NCCL_SESSION_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/communicator.h"
#include "kernels/cuda/comm/nccl_api.h"
#include "kernels/steady_clock.h"

namespace qwenserve {

// One rank's membership in an NCCL communicator, and its life: joining, calls, the end. No call
// into the library is waited for without a bound, whatever the library or the other ranks do.
//
// The communicator is non-blocking: every call may answer "in progress" and is then polled until it
// is taken (which is not: done), the time is up, another rank has failed, or Abort. With the first
// error of a call the membership is aborted: its pending collectives end, so that memory that they
// use can be given back, and every later call gets the same error.
//
// Join, Call, Fail, Leave and the destructor belong to one thread; Health and Abort to any.
class NcclSession {
 public:
  // For the other ranks to come when all leave.
  static constexpr absl::Duration kLeavePatience = absl::Seconds(5);

  // Returns when all ranks have joined. UNAVAILABLE otherwise, with what NCCL says.
  static absl::StatusOr<std::unique_ptr<NcclSession>> Join(const NcclApi& api,
                                                           const NcclUniqueId& id,
                                                           const DeviceGroup& group,
                                                           SteadyClock& clock);

  ~NcclSession() { Leave(); }

  // Waits for the other ranks to leave too, but not long, then aborts. What does not return in time
  // is left behind on a thread of its own.
  void Leave();

  // `issue` calls the library and returns what it answered. `what` names it in errors.
  absl::Status Call(const char* what, absl::FunctionRef<int(NcclComm)> issue) {
    return CallWithin(group_.timeout, what, issue);
  }
  absl::Status CallWithin(absl::Duration timeout, const char* what,
                          absl::FunctionRef<int(NcclComm)> issue);

  // Ends the membership for a reason that the caller has found; returns the first reason.
  absl::Status Fail(absl::Status reason);

  // The first error, also one that NCCL found in the background, or that of the group.
  absl::Status Health();

  // Ends pending collectives of this rank and makes every call fail. Returns when NCCL has done so,
  // which may be never: for a thread that somebody watches.
  void Abort();

  const NcclApi& api() const { return api_; }
  const DeviceGroup& group() const { return group_; }
  SteadyClock& clock() const { return clock_; }

 private:
  NcclSession(const NcclApi& api, const DeviceGroup& group, SteadyClock& clock)
      : api_(api), group_(group), clock_(clock) {}

  // Until NCCL no longer says "in progress", which `result` is the first answer to.
  absl::Status Settle(const char* what, int result, absl::Duration timeout);
  absl::Status Error(const char* what, int result);
  absl::Status Keep(absl::Status status);  // remembers the first error and returns it
  absl::Status First() const;
  void AbortBounded();

  const NcclApi api_;
  const DeviceGroup group_;
  SteadyClock& clock_;
  // Held while the library is called with comm_, but not by an Abort that gets no hold of it.
  std::mutex calls_;
  std::atomic<NcclComm> comm_{nullptr};  // null before the beginning and after the end
  std::atomic<bool> aborting_{false};
  mutable std::mutex mutex_;  // guards what follows
  absl::Status first_error_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_COMM_NCCL_SESSION_H_
