#ifndef QWENSERVE_KERNELS_CPU_THREAD_POOL_H_
#define QWENSERVE_KERNELS_CPU_THREAD_POOL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace qwenserve {

// A half-open range of work items.
struct WorkRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Part `index` of `parts` nearly equal parts of 0..count-1.
inline WorkRange StaticPart(int64_t count, int index, int parts) {
  const int64_t base = count / parts, rest = count % parts;
  const int64_t begin = index * base + (index < rest ? index : rest);
  return {begin, begin + base + (index < rest ? 1 : 0)};
}

// Work items cut into a part for each thread, the same part every time, so that a thread finds its
// memory near; who is done early takes what others have left, so that one slow core holds up
// nobody. Not for concurrent Start.
class WorkParts {
 public:
  explicit WorkParts(int num_threads) : parts_(static_cast<size_t>(num_threads)) {}

  // Items 0..count-1. `unit`: a piece is a multiple of it (but the last).
  void Start(int64_t count, int64_t unit) {
    const int threads = static_cast<int>(parts_.size());
    const int64_t units = (count + unit - 1) / unit;
    for (int i = 0; i < threads; ++i) {
      const WorkRange range = StaticPart(units, i, threads);
      parts_[i].next.store(range.begin * unit, std::memory_order_relaxed);
      parts_[i].end = std::min(range.end * unit, count);
    }
    const int64_t eighth = units / threads / 8;
    piece_ = unit * std::clamp<int64_t>(eighth, 1, kMaxUnits);
  }

  // The next piece for `thread`; empty when nothing is left.
  WorkRange Next(int thread) {
    for (size_t i = 0; i < parts_.size(); ++i) {
      Part& part = parts_[(thread + i) % parts_.size()];
      if (part.next.load(std::memory_order_relaxed) >= part.end) continue;
      const int64_t begin = part.next.fetch_add(piece_, std::memory_order_relaxed);
      if (begin < part.end) return {begin, std::min(begin + piece_, part.end)};
    }
    return {};
  }

 private:
  static constexpr int64_t kMaxUnits = 16;

  struct alignas(64) Part {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::vector<Part> parts_;
  int64_t piece_ = 1;
};

// The threads of one rank: persistent, and the caller is one of them. A step of the model makes a
// few hundred calls a few microseconds apart, so idle threads spin for about 50 us before they
// sleep; a sleeping thread costs nothing between steps.
//
// Run() is called by one thread at a time.
class ThreadPool {
 public:
  // Pins thread i to cpus[i] (the caller, thread 0, at its first Run) when cpus is not empty.
  ThreadPool(int num_threads, std::vector<int> cpus);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls work(i) once for every thread i and returns when all are done.
  void Run(absl::FunctionRef<void(int)> work);

 private:
  void WorkerLoop(int index);
  void Pin(int index);
  // Spins, then sleeps, until done() holds. Whoever makes it hold calls WakeSleepers.
  void Await(absl::FunctionRef<bool()> done);
  void WakeSleepers();

  const std::vector<int> cpus_;
  std::thread::id caller_;

  // Written by the caller before `generation_` rises, read by workers after.
  absl::FunctionRef<void(int)>* work_ = nullptr;
  bool stopping_ = false;

  alignas(64) std::atomic<uint64_t> generation_{0};
  alignas(64) std::atomic<int> running_{0};
  // Threads asleep or about to be. A sleeper counts itself before its last look at the condition,
  // a waker changes the condition before it looks at the count: one of them sees the other.
  alignas(64) std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;

  std::vector<std::thread> workers_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_THREAD_POOL_H_
