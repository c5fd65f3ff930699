#include "engine/parallel/group_communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/monotonic_time.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// From this many floats on a sum goes by slices: below, the second synchronisation costs more than
// the additions that it saves.
constexpr int64_t kSliceFrom = 16384;
constexpr int64_t kBlock = 512;  // floats summed at a time: stays in the first-level cache

class GroupCommunicator final : public Communicator {
 public:
  GroupCommunicator(std::shared_ptr<RankGroup> group, int rank, absl::Duration timeout)
      : group_(std::move(group)), rank_(rank), size_(group_->size()), timeout_(timeout) {
    QS_CHECK(rank >= 0 && rank < size_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduceSum(float* data, int64_t count) override {
    QS_CHECK(count >= 0);
    if (size_ == 1) return group_->Health();
    const Timer timer(*this);
    const int64_t slot = static_cast<int64_t>(group_->slot_floats());
    for (int64_t begin = 0; begin < count; begin += slot) {
      const int64_t n = std::min(slot, count - begin);
      absl::Status status =
          n < kSliceFrom ? SumWhole(data + begin, n) : SumBySlices(data + begin, n);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(const float* mine, int64_t rows, int64_t width, float* all) override {
    QS_CHECK(rows >= 0 && width >= 0);
    const int64_t count = rows * width;
    if (size_ == 1) {
      std::memcpy(all, mine, count * sizeof(float));
      return group_->Health();
    }
    const Timer timer(*this);
    const int64_t slot = static_cast<int64_t>(group_->slot_floats());
    for (int64_t begin = 0; begin < count; begin += slot) {
      const int64_t end = std::min(count, begin + slot);
      std::memcpy(Slot(rank_), mine + begin, (end - begin) * sizeof(float));
      absl::Status status = Synchronise(0, end - begin);
      if (!status.ok()) return status;
      for (int r = 0; r < size_; ++r) {
        const float* part = r == rank_ ? mine + begin : LastSlot(r);
        for (int64_t i = begin; i < end;) {
          const int64_t row = i / width;
          const int64_t column = i % width;
          const int64_t n = std::min(width - column, end - i);
          std::memcpy(all + (row * size_ + r) * width + column, part + (i - begin),
                      n * sizeof(float));
          i += n;
        }
      }
    }
    return absl::OkStatus();
  }

  // A group of one has nobody to meet.
  bool replayable() const override { return size_ == 1; }

  absl::Status Health() override { return group_->Health(); }

  void Abort() override { group_->Abort(absl::StrCat("rank ", rank_, " has given up")); }

 private:
  // Counts its own life as time in collectives.
  class Timer {
   public:
    explicit Timer(const GroupCommunicator& communicator) : communicator_(communicator) {}
    ~Timer() {
      communicator_.group_->AddCollectiveTime(communicator_.rank_, MonotonicNow() - begin_);
    }

   private:
    const GroupCommunicator& communicator_;
    const absl::Time begin_ = MonotonicNow();
  };

  // The buffer of the next operation, and that of the last one.
  float* Slot(int rank) { return group_->slot(rank, operations_ % 2); }
  const float* LastSlot(int rank) { return group_->slot(rank, (operations_ - 1) % 2); }

  // Announces these floats of this rank's buffer and waits until all have announced theirs.
  absl::Status Synchronise(int64_t begin, int64_t count) {
    group_->SetPart(rank_, operations_ % 2,
                    {static_cast<uint32_t>(begin), static_cast<uint32_t>(count)});
    ++operations_;
    Advance(group_->arrived(rank_), operations_);
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      absl::Status status =
          group_->Wait(group_->arrived(r), operations_, timeout_, r, "its part of a collective");
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // out[i] = sum of all ranks' last buffers at offset + i, in rank order.
  void SumInRankOrder(int64_t offset, int64_t count, float* out) {
    float sum[kBlock];
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int64_t n = std::min(kBlock, count - begin);
      std::memcpy(sum, LastSlot(0) + offset + begin, n * sizeof(float));
      for (int r = 1; r < size_; ++r) {
        const float* part = LastSlot(r) + offset + begin;
        for (int64_t i = 0; i < n; ++i) sum[i] += part[i];
      }
      std::memcpy(out + begin, sum, n * sizeof(float));
    }
  }

  absl::Status SumWhole(float* data, int64_t count) {
    std::memcpy(Slot(rank_), data, count * sizeof(float));
    absl::Status status = Synchronise(0, count);
    if (status.ok()) SumInRankOrder(0, count, data);
    return status;
  }

  absl::Status SumBySlices(float* data, int64_t count) {
    std::memcpy(Slot(rank_), data, count * sizeof(float));
    absl::Status status = Synchronise(0, count);
    if (!status.ok()) return status;
    const int64_t begin = SliceBegin(rank_, count);
    const int64_t slice = SliceBegin(rank_ + 1, count) - begin;
    SumInRankOrder(begin, slice, Slot(rank_) + begin);
    status = Synchronise(begin, slice);
    if (!status.ok()) return status;
    for (int r = 0; r < size_; ++r) {
      const int64_t first = SliceBegin(r, count);
      std::memcpy(data + first, LastSlot(r) + first,
                  (SliceBegin(r + 1, count) - first) * sizeof(float));
    }
    return absl::OkStatus();
  }

  // Slices begin at multiples of 16 floats, a cache line.
  int64_t SliceBegin(int rank, int64_t count) const {
    return rank == size_ ? count : count * rank / size_ / 16 * 16;
  }

  std::shared_ptr<RankGroup> group_;
  const int rank_;
  const int size_;
  const absl::Duration timeout_;
  uint32_t operations_ = 0;  // announced so far; wraps around
};

}  // namespace

std::unique_ptr<Communicator> MakeGroupCommunicator(std::shared_ptr<RankGroup> group, int rank,
                                                    absl::Duration timeout) {
  return std::make_unique<GroupCommunicator>(std::move(group), rank, timeout);
}

}  // namespace qwenserve
