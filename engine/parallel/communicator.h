#ifndef QWENSERVE_ENGINE_PARALLEL_COMMUNICATOR_H_
#define QWENSERVE_ENGINE_PARALLEL_COMMUNICATOR_H_

#include <cstdint>

#include "absl/status/status.h"

namespace qwenserve {

// The collectives of one tensor-parallel group, seen from one rank. Every rank calls the same
// operations in the same order with the same counts. Sums are taken in rank order, so all ranks,
// and all implementations (threads, processes), get the same bits.
//
// A call blocks until its result is there. UNAVAILABLE when another rank is gone, has aborted or
// did not arrive before the deadline given at creation; the group is then dead and every later call
// fails too.
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

  // Makes every rank's pending and later calls fail. From any thread.
  virtual void Abort() = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_PARALLEL_COMMUNICATOR_H_
