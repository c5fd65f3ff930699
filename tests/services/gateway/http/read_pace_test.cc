#include "services/gateway/http/read_pace.h"

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class ReadPaceTest : public testing::Test {
 protected:
  // The client takes `bytes` after each `pause`, for an hour at most. How long it was suffered.
  seconds Suffer(ReadPace pace, size_t bytes, milliseconds pause) {
    const auto start = now_;
    while (now_ - start < std::chrono::hours(1)) {
      const auto deadline = pace.Offer(now_);
      now_ += pause;
      if (now_ > deadline) {
        now_ = deadline;
        break;
      }
      pace.Taken(bytes, now_);
    }
    return std::chrono::duration_cast<seconds>(now_ - start);
  }

  ReadPace::Time now_{std::chrono::hours(5)};
};

TEST_F(ReadPaceTest, AFewBytesNowAndThenAreNotEnough) {
  // One second is earned by 1,000 bytes, so hardly any.
  EXPECT_EQ(Suffer(ReadPace(seconds(60), 1000), 5, seconds(20)), seconds(60));
  EXPECT_EQ(Suffer(ReadPace(seconds(60), 1000), 1, milliseconds(100)), seconds(60));
  EXPECT_EQ(Suffer(ReadPace(seconds(60), 1000), 500, seconds(1)), seconds(119));
}

TEST_F(ReadPaceTest, WhoReadsFastEnoughIsNeverEnded) {
  EXPECT_GE(Suffer(ReadPace(seconds(60), 1000), 1000, seconds(1)), seconds(3600));
  EXPECT_GE(Suffer(ReadPace(seconds(60), 1000), 50000, seconds(50)), seconds(3600));
}

TEST_F(ReadPaceTest, WhatWasReadBeforeBuysNoLongerRest) {
  ReadPace pace(seconds(60), 1000);
  pace.Offer(now_);
  pace.Taken(100 << 20, now_);
  EXPECT_EQ(pace.Offer(now_), now_ + seconds(60));
}

TEST_F(ReadPaceTest, TimeWithoutAnythingToReadDoesNotCount) {
  ReadPace pace(seconds(60), 1000);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(pace.Offer(now_), now_ + seconds(60));
    pace.Taken(10, now_);
    now_ += std::chrono::minutes(10);
  }
}

TEST_F(ReadPaceTest, WithoutARateAnyByteIsEnough) {
  EXPECT_GE(Suffer(ReadPace(seconds(60), 0), 1, seconds(59)), seconds(3599));
  EXPECT_EQ(Suffer(ReadPace(seconds(60), 0), 1, seconds(61)), seconds(60));
}

}  // namespace
}  // namespace qwenserve
