#ifndef QWENSERVE_ENGINE_PARALLEL_RANK_GROUP_H_
#define QWENSERVE_ENGINE_PARALLEL_RANK_GROUP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/parallel/shared_counter.h"

namespace qwenserve {

// What is known of one rank from outside.
struct RankProgress {
  uint64_t step = 0;        // steps finished
  absl::Duration step_age;  // since its oldest unfinished step could begin; 0 between steps
  // In collectives that are not a device's, since the start, waits for other ranks included. 0 for
  // ranks on other nodes, as are the next two.
  absl::Duration collective_time;
  // Bytes of the rank's device, at the last look; 0 where that is the host's.
  uint64_t device_used = 0;
  uint64_t device_total = 0;
};

// The memory that the ranks of one tensor-parallel group share: the buffers of the collectives, the
// ring of plans, every rank's progress and the group's fate. Ranks are threads of one process or
// processes of one node; both use the same memory in the same way, so both compute the same bits.
//
// The memory is an anonymous file (memfd): a further process gets its descriptor and attaches. It
// lives as long as somebody holds it. Thread-safe.
class RankGroup {
 public:
  struct Options {
    size_t slot_bytes = size_t{1} << 20;  // of one rank and buffer; longer sums go in pieces
    size_t ring_bytes = size_t{1} << 20;  // power of two; longer plans go in pieces
  };
  static constexpr int kMaxRanks = 64;

  // INVALID_ARGUMENT for a size outside 1..kMaxRanks; RESOURCE_EXHAUSTED without memory.
  static absl::StatusOr<std::shared_ptr<RankGroup>> Create(int size, const Options& options);
  static absl::StatusOr<std::shared_ptr<RankGroup>> Create(int size) {
    return Create(size, Options());
  }
  // In another process. INVALID_ARGUMENT when the file is not a group's. Takes the descriptor over.
  static absl::StatusOr<std::shared_ptr<RankGroup>> Attach(int fd);
  ~RankGroup();

  int size() const;
  int fd() const { return fd_; }  // closed on exec

  // Ends the group: pending and later waits of all ranks fail with UNAVAILABLE and this reason (the
  // first one stays; at most 400 bytes of it are kept).
  void Abort(absl::string_view reason);
  // OK while the group lives.
  absl::Status Health() const;

  // A rank is loaded when it has its weights and has taken its memory, ready when it waits for
  // plans, and ended after the plan that says so.
  enum class Phase : uint32_t { kLoaded = 1, kReady = 2, kEnded = 3 };
  void SetPhase(int rank, Phase phase);
  uint32_t phase(int rank) const;  // 0 at first
  // Until all ranks are that far, however long that takes, or the group is aborted.
  absl::Status WaitAll(Phase phase);
  // Until this one is; false when it is not by then.
  bool WaitFor(int rank, Phase phase, absl::Duration timeout);

  // The identity of the group of devices (DeviceGroup::id): set once, by rank 0.
  static constexpr size_t kMaxDeviceGroupId = 256;
  void SetDeviceGroupId(absl::string_view id);
  // Until it is set or the group is aborted.
  absl::StatusOr<std::string> WaitForDeviceGroupId();
  std::string device_group_id() const;  // empty as long as it is not set

  // Up to two steps of a rank may have begun before the first ends.
  void BeginStep(int rank, uint64_t step);
  void EndStep(int rank, uint64_t step);
  // These two from the rank's own thread; what they told is read from any. `used`, `total`: bytes.
  void AddCollectiveTime(int rank, absl::Duration time);
  void SetDeviceMemory(int rank, uint64_t used, uint64_t total);
  RankProgress Progress(int rank) const;

  // For the communicator and the ring of plans. `what` says what was awaited, for the message. A
  // time-out aborts the group.
  absl::Status Wait(SharedCounter& counter, uint32_t target, absl::Duration timeout, int peer,
                    absl::string_view what);
  // As Wait, but not to be there in time is no failure.
  WaitResult TryWait(SharedCounter& counter, uint32_t target, absl::Duration timeout);
  SharedCounter& arrived(int rank);
  // What of slot(rank, buffer) the others will read, for who carries it to another node: set before
  // `arrived` tells them.
  struct Part {
    uint32_t begin = 0;  // floats
    uint32_t count = 0;
  };
  void SetPart(int rank, int buffer, Part part);
  Part part(int rank, int buffer) const;
  SharedCounter& ring_written();
  SharedCounter& ring_read(int rank);
  float* slot(int rank, int buffer);  // two buffers for each rank
  size_t slot_floats() const;
  char* ring();
  size_t ring_bytes() const;

 private:
  struct Header;
  struct RankCell;

  RankGroup(int fd, void* memory, size_t bytes) : fd_(fd), memory_(memory), bytes_(bytes) {}
  static absl::StatusOr<std::shared_ptr<RankGroup>> Map(int fd, size_t bytes);
  Header& header() const { return *static_cast<Header*>(memory_); }
  RankCell& cell(int rank) const;

  int fd_;
  void* memory_;
  size_t bytes_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_PARALLEL_RANK_GROUP_H_
