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

TEST(WorkPartsTest, EveryItemIsDoneOnceWhoeverTakesIt) {
  for (int threads : {1, 2, 3, 5}) {
    WorkParts parts(threads);
    for (int64_t unit : {1, 2, 8}) {
      for (int64_t count : {0, 1, 2, 7, 16, 71, 1000, 5001}) {
        // One thread comes late and finds what is left, if anything.
        for (int late = 0; late < threads; ++late) {
          parts.Start(count, unit);
          std::vector<int> done(count);
          for (int i = 1; i <= threads; ++i) {
            const int thread = (late + i) % threads;
            for (WorkRange piece = parts.Next(thread); piece.begin < piece.end;
                 piece = parts.Next(thread)) {
              EXPECT_EQ(piece.begin % unit, 0);
              for (int64_t item = piece.begin; item < piece.end; ++item) ++done[item];
            }
          }
          EXPECT_EQ(done, std::vector<int>(count, 1)) << threads << " threads, unit " << unit;
        }
      }
    }
  }
}

TEST(WorkPartsTest, AThreadsOwnPartComesFirst) {
  WorkParts parts(2);
  parts.Start(100, 2);
  EXPECT_EQ(parts.Next(1).begin, 50);
  EXPECT_EQ(parts.Next(0).begin, 0);
}

TEST(WorkPartsTest, ThreadsAtOnceShareThePanels) {
  constexpr int kThreads = 4;
  ThreadPool pool(kThreads, {});
  WorkParts parts(kThreads);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::atomic<int>> done(333);
    parts.Start(333, 2);
    pool.Run([&](int thread) {
      for (WorkRange piece = parts.Next(thread); piece.begin < piece.end;
           piece = parts.Next(thread)) {
        for (int64_t item = piece.begin; item < piece.end; ++item) ++done[item];
      }
    });
    for (const auto& count : done) ASSERT_EQ(count.load(), 1);
  }
}

}  // namespace
}  // namespace qwenserve
