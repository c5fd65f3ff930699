#include "kernels/cuda/runtime/upload_ring.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/check.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {
namespace {

// Between two looks at the copies under way, while the next piece is being filled.
constexpr std::chrono::microseconds kPoll{200};

}  // namespace

// What the threads and their caller share.
class UploadRing::Filling {
 public:
  struct Piece {
    size_t slot = 0;
    bool full = false;
    absl::Status status;
  };

  Filling(int64_t pieces, std::vector<size_t> free, const std::vector<Slot>& slots, Fill fill)
      : pieces_(pieces), slots_(slots), fill_(fill), free_(std::move(free)) {}

  // A thread's work: pieces in order, as buffers become free.
  void Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopped_ || next_ == pieces_ || !free_.empty(); });
      if (stopped_ || next_ == pieces_) return;
      const int64_t index = next_++;
      Piece& piece = taken_[index];
      piece.slot = free_.back();
      free_.pop_back();
      void* buffer = slots_[piece.slot].memory.data();
      lock.unlock();
      absl::Status status = fill_(index, buffer);
      lock.lock();
      piece.full = true;
      if (!status.ok()) next_ = pieces_;
      piece.status = std::move(status);
      changed_.notify_all();
    }
  }

  // Nothing more is begun.
  void Stop() {
    std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

  void GiveBack(size_t slot) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(slot);
    changed_.notify_all();
  }

  // Whether piece `index` is full, after waiting a little, and where it is.
  bool TakeFull(int64_t index, Piece* piece) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto full = [&] {
      const auto found = taken_.find(index);
      return found != taken_.end() && found->second.full;
    };
    if (!changed_.wait_for(lock, kPoll, full)) return false;
    *piece = std::move(taken_.extract(index).mapped());
    return true;
  }

  // False: no thread has it, for want of a buffer.
  bool IsTaken(int64_t index) {
    std::lock_guard<std::mutex> lock(mutex_);
    return taken_.count(index) != 0;
  }

 private:
  const int64_t pieces_;
  const std::vector<Slot>& slots_;
  const Fill fill_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<size_t> free_;
  std::map<int64_t, Piece> taken_;  // filled or being filled, not delivered
  int64_t next_ = 0;
  bool stopped_ = false;
};

absl::StatusOr<std::unique_ptr<UploadRing>> UploadRing::Create(GpuDevice& device,
                                                               const UploadOptions& options) {
  QS_CHECK(options.buffer_bytes > 0 && options.buffers > 0 && options.readers > 0);
  std::unique_ptr<UploadRing> ring(new UploadRing(device, options));
  for (int i = 0; i < options.buffers; ++i) {
    absl::StatusOr<Buffer> memory = AllocatePinnedBuffer(device, options.buffer_bytes);
    if (!memory.ok()) return memory.status();
    ring->slots_.push_back({*std::move(memory), 0});
  }
  return ring;
}

UploadRing::~UploadRing() {
  // The error, if any, is the device's, and every later call reports it.
  FinishCopies().IgnoreError();
}

absl::Status UploadRing::FinishCopies() {
  absl::Status status;
  for (const size_t slot : copying_) {
    if (status.ok()) status = device_.Wait(slots_[slot].event, options_.timeout);
    device_.Release(std::exchange(slots_[slot].event, 0));
  }
  copying_.clear();
  return status;
}

absl::Status UploadRing::Reclaim(Filling& filling, bool wait) {
  size_t done = 0;
  for (; done < copying_.size(); ++done) {
    Slot& slot = slots_[copying_[done]];
    if (!device_.Done(slot.event)) {
      if (!wait || done > 0) break;
      const absl::Status status = device_.Wait(slot.event, options_.timeout);
      if (!status.ok()) return status;
    }
    device_.Release(std::exchange(slot.event, 0));
    filling.GiveBack(copying_[done]);
  }
  copying_.erase(copying_.begin(), copying_.begin() + static_cast<ptrdiff_t>(done));
  return absl::OkStatus();
}

absl::Status UploadRing::DeliverAll(int64_t pieces, Filling& filling, Deliver deliver) {
  for (int64_t index = 0; index < pieces; ++index) {
    Filling::Piece piece;
    do {
      const bool no_buffer =
          copying_.size() == slots_.size() || (!copying_.empty() && !filling.IsTaken(index));
      const absl::Status status = Reclaim(filling, no_buffer);
      if (!status.ok()) return status;
    } while (!filling.TakeFull(index, &piece));
    if (!piece.status.ok()) return piece.status;
    Slot& slot = slots_[piece.slot];
    const absl::Status status = deliver(index, slot.memory.data());
    slot.event = device_.Record(GpuStream::kCopy);
    copying_.push_back(piece.slot);
    if (!status.ok()) return status;
  }
  return device_.Check();
}

absl::Status UploadRing::Run(int64_t pieces, Fill fill, Deliver deliver) {
  std::vector<size_t> free;
  for (size_t i = slots_.size(); i-- > 0;) {
    if (slots_[i].event == 0) free.push_back(i);
  }
  Filling filling(pieces, std::move(free), slots_, fill);
  std::vector<std::thread> readers;
  for (int64_t i = 0; i < std::min<int64_t>(options_.readers, pieces); ++i) {
    readers.emplace_back([&filling] { filling.Work(); });
  }
  absl::Status status = DeliverAll(pieces, filling, deliver);
  filling.Stop();
  for (std::thread& reader : readers) reader.join();
  return status;
}

}  // namespace qwenserve
