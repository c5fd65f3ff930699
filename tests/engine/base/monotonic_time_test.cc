#include "engine/base/monotonic_time.h"

#include <thread>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

TEST(MonotonicNowTest, NeverGoesBack) {
  absl::Time last = MonotonicNow();
  for (int i = 0; i < 1000; ++i) {
    const absl::Time now = MonotonicNow();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(StopSignalTest, SleepsUntilTheTimeIsOver) {
  const StopSignal signal;
  const absl::Time begin = MonotonicNow();
  EXPECT_FALSE(signal.StoppedWithin(absl::Milliseconds(20)));
  EXPECT_GE(MonotonicNow() - begin, absl::Milliseconds(20));
  EXPECT_FALSE(signal.StoppedWithin(-absl::Seconds(1)));
}

TEST(StopSignalTest, WakesWhoeverSleeps) {
  StopSignal signal;
  bool stopped[2] = {false, false};
  std::thread sleepers[2];
  for (int i = 0; i < 2; ++i) {
    sleepers[i] =
        std::thread([&, i] { stopped[i] = signal.StoppedWithin(absl::InfiniteDuration()); });
  }
  EXPECT_FALSE(signal.stopped());
  signal.Stop();
  for (std::thread& sleeper : sleepers) sleeper.join();
  EXPECT_TRUE(stopped[0] && stopped[1] && signal.stopped());
  EXPECT_TRUE(signal.StoppedWithin(absl::ZeroDuration()));
}

}  // namespace
}  // namespace qwenserve
