#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <chrono>
#include <thread>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

TEST(StaticPartTest, CoversEveryItemOnceInOrder) {
  for (int64_t count : {0, 1, 2, 7, 8, 100}) {
    for (int parts = 1; parts <= 9; ++parts) {
      int64_t next = 0;
      for (int i = 0; i < parts; ++i) {
        const WorkRange part = StaticPart(count, i, parts);
        EXPECT_EQ(part.begin, next);
        EXPECT_LE(part.end - part.begin, (count + parts - 1) / parts);
        next = part.end;
      }
      EXPECT_EQ(next, count);
    }
  }
}

TEST(ThreadPoolTest, EveryThreadRunsEachCallOnceAndTheCallerIsThreadZero) {
  for (int threads = 1; threads <= 6; ++threads) {
    ThreadPool pool(threads, {});
    EXPECT_EQ(pool.num_threads(), threads);
    std::vector<int64_t> calls(threads);
    for (int round = 0; round < 2000; ++round) {
      pool.Run([&](int thread) { ++calls[thread]; });
    }
    EXPECT_EQ(calls, std::vector<int64_t>(threads, 2000));
    const std::thread::id caller = std::this_thread::get_id();
    std::vector<std::thread::id> ids(threads);
    pool.Run([&](int thread) { ids[thread] = std::this_thread::get_id(); });
    EXPECT_EQ(ids[0], caller);
    for (int i = 1; i < threads; ++i) EXPECT_NE(ids[i], caller);
  }
}

TEST(ThreadPoolTest, WakesThreadsThatSleepAndCallersThatWait) {
  ThreadPool pool(3, {});
  for (int round = 0; round < 20; ++round) {
    // Longer than the spin, so that workers sleep before the call and the caller during it.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::vector<int> done(3);
    pool.Run([&](int thread) {
      if (thread == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      done[thread] = 1;
    });
    EXPECT_EQ(done, (std::vector<int>{1, 1, 1}));
  }
}

TEST(ThreadPoolTest, PinsEachThreadToItsCpu) {
  cpu_set_t before;
  CPU_ZERO(&before);
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  std::vector<int> allowed;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &before)) allowed.push_back(cpu);
  }
  const std::vector<int> cpus = {allowed.back(), allowed.front()};
  // In a thread of its own: pinning is for good.
  std::thread([&] {
    ThreadPool pool(2, cpus);
    std::vector<int> seen(2, -1);
    pool.Run([&](int thread) { seen[thread] = sched_getcpu(); });
    EXPECT_EQ(seen, cpus);
  }).join();
}

}  // namespace
}  // namespace qwenserve
