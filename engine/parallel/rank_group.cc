#include "engine/parallel/rank_group.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

constexpr uint64_t kMagic = 0x33707567'6b6e6172;  // "rankgup3"
constexpr size_t kPage = 4096;
constexpr size_t kMaxReason = 400;

enum AbortState : uint32_t { kAlive = 0, kAborting = 1, kAborted = 2 };

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

int64_t MonotonicNanos() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

struct RankGroup::RankCell {
  SharedCounter arrived;
  SharedCounter phase;
  SharedCounter ring_read;
  Part parts[2];
  alignas(64) std::atomic<uint64_t> step{0};
  std::atomic<uint64_t> last_begun{0};
  std::atomic<int64_t> step_began{0};  // CLOCK_MONOTONIC, the same in all processes; 0 = no step
  std::atomic<int64_t> collective_nanos{0};
  std::atomic<uint64_t> device_used{0};
  std::atomic<uint64_t> device_total{0};
};

struct RankGroup::Header {
  uint64_t magic = kMagic;
  uint64_t bytes = 0;
  int32_t size = 0;
  uint64_t slot_bytes = 0;
  uint64_t ring_bytes = 0;
  std::atomic<uint32_t> abort_state{kAlive};
  uint32_t reason_bytes = 0;
  char reason[kMaxReason] = {};
  SharedCounter device_group;  // 1 when its id is set
  uint32_t device_group_bytes = 0;
  char device_group_id[kMaxDeviceGroupId] = {};
  SharedCounter ring_written;
  RankCell cells[kMaxRanks];

  size_t slots_offset() const { return RoundUp(sizeof(Header), kPage); }
  size_t ring_offset() const { return slots_offset() + 2 * size * slot_bytes; }
};

absl::StatusOr<std::shared_ptr<RankGroup>> RankGroup::Map(int fd, size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    close(fd);
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot map ", bytes, " bytes of memory shared by the ranks: ", std::strerror(error)));
  }
  return std::shared_ptr<RankGroup>(new RankGroup(fd, memory, bytes));
}

absl::StatusOr<std::shared_ptr<RankGroup>> RankGroup::Create(int size, const Options& options) {
  if (size < 1 || size > kMaxRanks) {
    return absl::InvalidArgumentError(
        absl::StrCat("a group of ", size, " ranks: must be 1 to ", kMaxRanks));
  }
  QS_CHECK(std::has_single_bit(options.ring_bytes) && options.ring_bytes <= (1u << 30));
  Header layout;
  layout.size = size;
  layout.slot_bytes = RoundUp(options.slot_bytes, kPage);
  layout.ring_bytes = options.ring_bytes;
  const size_t bytes = RoundUp(layout.ring_offset() + layout.ring_bytes, kPage);

  const int fd = memfd_create("qwenserve-ranks", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    const int error = errno;
    if (fd >= 0) close(fd);
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot make ", bytes, " bytes of shared memory: ", std::strerror(error)));
  }
  auto group = Map(fd, bytes);
  if (!group.ok()) return group;
  Header* header = new ((*group)->memory_) Header();
  header->bytes = bytes;
  header->size = size;
  header->slot_bytes = layout.slot_bytes;
  header->ring_bytes = layout.ring_bytes;
  return group;
}

absl::StatusOr<std::shared_ptr<RankGroup>> RankGroup::Attach(int fd) {
  struct stat file;
  if (fstat(fd, &file) != 0 || static_cast<size_t>(file.st_size) < sizeof(Header)) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd, " is not the memory of a rank group"));
  }
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  auto group = Map(fd, static_cast<size_t>(file.st_size));
  if (!group.ok()) return group;
  const Header& header = (*group)->header();
  if (header.magic != kMagic || header.bytes != static_cast<uint64_t>(file.st_size)) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd, " is not the memory of a rank group of this version"));
  }
  return group;
}

RankGroup::~RankGroup() {
  munmap(memory_, bytes_);
  close(fd_);
}

RankGroup::RankCell& RankGroup::cell(int rank) const {
  QS_CHECK(rank >= 0 && rank < header().size);
  return header().cells[rank];
}

int RankGroup::size() const { return header().size; }

void RankGroup::Abort(absl::string_view reason) {
  Header& h = header();
  uint32_t alive = kAlive;
  if (!h.abort_state.compare_exchange_strong(alive, kAborting)) return;
  h.reason_bytes = static_cast<uint32_t>(std::min(reason.size(), kMaxReason));
  std::memcpy(h.reason, reason.data(), h.reason_bytes);
  h.abort_state.store(kAborted, std::memory_order_release);
  WakeAll(h.ring_written);
  WakeAll(h.device_group);
  for (int r = 0; r < h.size; ++r) {
    WakeAll(h.cells[r].arrived);
    WakeAll(h.cells[r].phase);
    WakeAll(h.cells[r].ring_read);
  }
}

absl::Status RankGroup::Health() const {
  const Header& h = header();
  const uint32_t state = h.abort_state.load(std::memory_order_acquire);
  if (state == kAlive) return absl::OkStatus();
  // While the reason is being written there is none yet.
  return absl::UnavailableError(state == kAborted ? absl::string_view(h.reason, h.reason_bytes)
                                                  : absl::string_view("the rank group has ended"));
}

void RankGroup::SetPhase(int rank, Phase phase) {
  Advance(cell(rank).phase, static_cast<uint32_t>(phase));
}

uint32_t RankGroup::phase(int rank) const {
  return cell(rank).phase.value.load(std::memory_order_acquire);
}

bool RankGroup::WaitFor(int rank, Phase phase, absl::Duration timeout) {
  return qwenserve::WaitFor(cell(rank).phase, static_cast<uint32_t>(phase), timeout,
                            header().abort_state) == WaitResult::kReached;
}

absl::Status RankGroup::WaitAll(Phase phase) {
  for (int r = 0; r < size(); ++r) {
    absl::Status status = Wait(cell(r).phase, static_cast<uint32_t>(phase),
                               absl::InfiniteDuration(), r, "the end of its start");
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void RankGroup::SetDeviceGroupId(absl::string_view id) {
  Header& h = header();
  QS_CHECK(id.size() <= kMaxDeviceGroupId && h.device_group.value == 0);
  h.device_group_bytes = static_cast<uint32_t>(id.size());
  std::memcpy(h.device_group_id, id.data(), id.size());
  Advance(h.device_group, 1);
}

absl::StatusOr<std::string> RankGroup::WaitForDeviceGroupId() {
  Header& h = header();
  absl::Status status =
      Wait(h.device_group, 1, absl::InfiniteDuration(), 0, "the group of devices");
  if (!status.ok()) return status;
  return std::string(h.device_group_id, h.device_group_bytes);
}

std::string RankGroup::device_group_id() const {
  const Header& h = header();
  if (h.device_group.value.load(std::memory_order_acquire) == 0) return "";
  return std::string(h.device_group_id, h.device_group_bytes);
}

void RankGroup::BeginStep(int rank, uint64_t step) {
  RankCell& mine = cell(rank);
  mine.last_begun.store(step, std::memory_order_relaxed);
  if (mine.step_began.load(std::memory_order_relaxed) == 0) {
    mine.step_began.store(MonotonicNanos(), std::memory_order_relaxed);
  }
}

void RankGroup::EndStep(int rank, uint64_t step) {
  RankCell& mine = cell(rank);
  mine.step.store(step, std::memory_order_relaxed);
  // Where another one has begun, its turn on the device comes now.
  const bool idle = mine.last_begun.load(std::memory_order_relaxed) <= step;
  mine.step_began.store(idle ? 0 : MonotonicNanos(), std::memory_order_relaxed);
}

void RankGroup::AddCollectiveTime(int rank, absl::Duration time) {
  cell(rank).collective_nanos.fetch_add(absl::ToInt64Nanoseconds(time), std::memory_order_relaxed);
}

void RankGroup::SetDeviceMemory(int rank, uint64_t used, uint64_t total) {
  cell(rank).device_used.store(used, std::memory_order_relaxed);
  cell(rank).device_total.store(total, std::memory_order_relaxed);
}

RankProgress RankGroup::Progress(int rank) const {
  RankProgress progress;
  progress.collective_time =
      absl::Nanoseconds(cell(rank).collective_nanos.load(std::memory_order_relaxed));
  progress.device_used = cell(rank).device_used.load(std::memory_order_relaxed);
  progress.device_total = cell(rank).device_total.load(std::memory_order_relaxed);
  progress.step = cell(rank).step.load(std::memory_order_relaxed);
  const int64_t began = cell(rank).step_began.load(std::memory_order_relaxed);
  if (began != 0) {
    progress.step_age = absl::Nanoseconds(std::max<int64_t>(0, MonotonicNanos() - began));
  }
  return progress;
}

absl::Status RankGroup::Wait(SharedCounter& counter, uint32_t target, absl::Duration timeout,
                             int peer, absl::string_view what) {
  switch (qwenserve::WaitFor(counter, target, timeout, header().abort_state)) {
    case WaitResult::kReached:
      return absl::OkStatus();
    case WaitResult::kTimedOut:
      Abort(absl::StrCat("rank ", peer, " is stalled: waited ", absl::FormatDuration(timeout),
                         " for ", what));
      break;
    case WaitResult::kAborted:
      break;
  }
  return Health();
}

WaitResult RankGroup::TryWait(SharedCounter& counter, uint32_t target, absl::Duration timeout) {
  return qwenserve::WaitFor(counter, target, timeout, header().abort_state);
}

SharedCounter& RankGroup::arrived(int rank) { return cell(rank).arrived; }
void RankGroup::SetPart(int rank, int buffer, Part part) { cell(rank).parts[buffer] = part; }
RankGroup::Part RankGroup::part(int rank, int buffer) const { return cell(rank).parts[buffer]; }
SharedCounter& RankGroup::ring_written() { return header().ring_written; }
SharedCounter& RankGroup::ring_read(int rank) { return cell(rank).ring_read; }

float* RankGroup::slot(int rank, int buffer) {
  const Header& h = header();
  const size_t index = static_cast<size_t>(2 * rank + buffer);
  return reinterpret_cast<float*>(static_cast<char*>(memory_) + h.slots_offset() +
                                  index * h.slot_bytes);
}

size_t RankGroup::slot_floats() const { return header().slot_bytes / sizeof(float); }

char* RankGroup::ring() { return static_cast<char*>(memory_) + header().ring_offset(); }
size_t RankGroup::ring_bytes() const { return header().ring_bytes; }

}  // namespace qwenserve
