#include "services/tokenizer/work_queue.h"

#include <atomic>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

TEST(WorkQueueTest, RefusesWhatDoesNotFitAndRunsTheRest) {
  std::atomic<int> done{0};
  absl::Notification started, release;
  {
    WorkQueue queue(1, 2);
    ASSERT_TRUE(queue.TryAdd([&] {
      started.Notify();
      release.WaitForNotification();
      ++done;
    }));
    started.WaitForNotification();
    EXPECT_TRUE(queue.TryAdd([&] { ++done; }));
    EXPECT_TRUE(queue.TryAdd([&] { ++done; }));
    EXPECT_FALSE(queue.TryAdd([&] { ++done; }));
    release.Notify();
  }
  EXPECT_EQ(done, 3);
}

TEST(WorkQueueTest, JobsRunSideBySide) {
  absl::Notification first, second;
  WorkQueue queue(2, 8);
  ASSERT_TRUE(queue.TryAdd([&] {
    first.Notify();
    second.WaitForNotification();
  }));
  ASSERT_TRUE(queue.TryAdd([&] {
    first.WaitForNotification();
    second.Notify();
  }));
  second.WaitForNotification();
}

}  // namespace
}  // namespace qwenserve
