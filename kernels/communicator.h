#ifndef QWENSERVE_KERNELS_COMMUNICATOR_H_
#define QWENSERVE_KERNELS_COMMUNICATOR_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace qwenserve {

// The collectives of one tensor-parallel group, seen from one rank. Every rank calls the same
// operations in the same order with the same counts. Sums are taken in rank order, so all ranks,
// and all implementations (threads, processes, GPUs), get the same bits.
//
// Data lies where the rank's backend has its memory. A collective of a device with a queue of its
// own is one more op of that queue: the call returns before it is done, and what goes wrong later
// shows in Health and as a wait for the device that has no end. Any other call blocks until its
// result is there.
//
// UNAVAILABLE when another rank is gone, has aborted or did not arrive before the deadline given at
// creation; the group is then dead and every later call fails too.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // data[i] = sum over ranks, in rank order, of their data[i].
  virtual absl::Status AllReduceSum(float* data, int64_t count) = 0;

  // Row r of `all` is row r of every rank's `mine`, side by side in rank order.
  // mine: [rows, width]; all: [rows, size() * width].
  virtual absl::Status AllGather(const float* mine, int64_t rows, int64_t width, float* all) = 0;

  // Whether collectives are ops of the device's queue (or nothing at all): they may then be
  // recorded and repeated (Backend::Replay), and somebody has to watch Health.
  virtual bool replayable() const { return false; }

  // OK while nothing is known to have gone wrong. From any thread.
  virtual absl::Status Health() = 0;

  // Makes every rank's pending and later calls fail; on a device with a queue of its own it ends
  // this rank's pending collectives, and may take long. From any thread.
  virtual void Abort() = 0;
};

// What a backend must know to join its device with those of the other ranks.
struct DeviceGroup {
  std::string id;  // Backend::NewDeviceGroup of one rank, the same for all
  int rank = 0;
  int size = 1;
  std::string library;  // file or folder of the collectives' library; empty = as installed
  // For all ranks to come together, and for each later call to be taken.
  absl::Duration timeout = absl::Seconds(120);
  // Longest sum that is done in one piece: decides how much memory is taken.
  int64_t max_sum = 0;
  // OK as long as no rank has failed; asked while waiting for the others. From any thread.
  std::function<absl::Status()> health = nullptr;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_COMMUNICATOR_H_
