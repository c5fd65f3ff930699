#ifndef QWENSERVE_KERNELS_CPU_THREAD_POOL_H_
#define QWENSERVE_KERNELS_CPU_THREAD_POOL_H_

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
