#ifndef QWENSERVE_TESTS_KERNELS_CUDA_COMM_FAKE_NCCL_H_
#define QWENSERVE_TESTS_KERNELS_CUDA_COMM_FAKE_NCCL_H_

#include "kernels/cuda/comm/nccl_api.h"

namespace qwenserve {

// An NCCL over host memory, for ranks that are threads of this process: what it does to data it
// does when the last rank has called, and until then it says "in progress". It ends the test's
// process when a communicator is used after its end. There is one at a time.
class FakeNccl {
 public:
  // What goes wrong on one rank. Calls are counted from 0: collectives, groups and windows.
  struct Faults {
    int polls = 0;               // how often each call says "in progress" though it is done
    bool hang_in_join = false;   // never joins
    int hang_at = -1;            // from this call on nothing is done, nor said
    int block_at = -1;           // this call does not return before the abort
    int fail_at = -1;            // this call returns an error
    int late_error_at = -1;      // after this call there is an asynchronous error
    bool hang_in_abort = false;  // CommAbort does not return while the fake lives
    bool no_symmetric_memory = false;
    bool windows_unsupported = false;  // registering succeeds and gives no window
  };

  FakeNccl();
  ~FakeNccl();

  NcclApi api() const;
  NcclApi api_without_windows() const;

  void SetFaults(int rank, const Faults& faults);
  void SetVersion(int version);

  // Of all ranks together, since the beginning.
  int joins() const;
  int aborts() const;  // begun
  int destroys() const;
  int windows() const;  // registered and not yet deregistered
  int calls(int rank) const;
  int ends(int rank) const;  // memberships destroyed or aborted
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_CUDA_COMM_FAKE_NCCL_H_
