#ifndef QWENSERVE_ENGINE_PARALLEL_GROUP_COMMUNICATOR_H_
#define QWENSERVE_ENGINE_PARALLEL_GROUP_COMMUNICATOR_H_

#include <memory>

#include "absl/time/time.h"
#include "engine/parallel/rank_group.h"
#include "kernels/communicator.h"

namespace qwenserve {

// The collectives over a RankGroup's memory, for ranks on one node, threads and processes alike.
//
// Every rank has two buffers and one counter. Operation n: write one's part to buffer n % 2, set
// the counter to n + 1, wait for the others' counters, read their buffers. A buffer is written
// again two operations later, when every peer has announced the one in between and so is done with
// reading: one synchronisation for each operation.
//
// A short sum is formed by every rank from all parts. A long one is cut: rank r sums the r-th slice
// and hands it to the others in a second operation. Both add in rank order, in float, so the bits
// are the same whichever way is taken. A group of one returns at once.
//
// `timeout`: how long a rank may be late, from the moment that this one waits.
// Used by one thread at a time, but for Abort.
std::unique_ptr<Communicator> MakeGroupCommunicator(std::shared_ptr<RankGroup> group, int rank,
                                                    absl::Duration timeout);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_PARALLEL_GROUP_COMMUNICATOR_H_
