#include "kernels/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/cpu_features.h"

namespace qwenserve {
namespace {

// About half of what a futex sleep and wake cost, and more than the gap between two ops of a step.
constexpr std::chrono::microseconds kSpinTime(50);
constexpr int kSpinsPerClockRead = 64;

}  // namespace

ThreadPool::ThreadPool(int num_threads, std::vector<int> cpus) : cpus_(std::move(cpus)) {
  QS_CHECK(num_threads >= 1);
  QS_CHECK(cpus_.empty() || cpus_.size() >= static_cast<size_t>(num_threads));
  workers_.reserve(num_threads - 1);
  for (int i = 1; i < num_threads; ++i) {
    workers_.emplace_back([this, i] { WorkerLoop(i); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  generation_.fetch_add(1);
  WakeSleepers();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Pin(int index) {
  if (cpus_.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus_[index], &set);
  // Not being allowed to pin costs speed only.
  (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

void ThreadPool::Run(absl::FunctionRef<void(int)> work) {
  if (std::this_thread::get_id() != caller_) {
    caller_ = std::this_thread::get_id();
    Pin(0);
  }
  if (workers_.empty()) {
    work(0);
    return;
  }
  work_ = &work;
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);
  WakeSleepers();
  work(0);
  Await([this] { return running_.load() == 0; });
}

void ThreadPool::WorkerLoop(int index) {
  Pin(index);
  uint64_t seen = 0;
  while (true) {
    Await([this, seen] { return generation_.load() != seen; });
    ++seen;
    if (stopping_) return;
    (*work_)(index);
    if (running_.fetch_sub(1) == 1) WakeSleepers();
  }
}

void ThreadPool::Await(absl::FunctionRef<bool()> done) {
  if (done()) return;
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kSpinsPerClockRead; ++i) {
      if (done()) return;
      CpuRelax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  sleepers_.fetch_add(1);
  {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, done);
  }
  sleepers_.fetch_sub(1);
}

void ThreadPool::WakeSleepers() {
  if (sleepers_.load() == 0) return;
  // Taken and left: a sleeper is now either before its last look or inside wait().
  { std::lock_guard<std::mutex> lock(mutex_); }
  wake_.notify_all();
}

}  // namespace qwenserve
